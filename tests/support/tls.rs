//! TLS of the programs under test: the certificates of `certificates/`, clients of other projects, and promises that each
//! program's tests call for themselves.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::process::{Ended, Process};
use crate::program::{Program, assert_ends};
use crate::{eventually, folder, skip};

/// The path of a file in `certificates/`; its `make.sh` says what each of them is.
#[must_use]
pub fn certificate(name: &str) -> String {
    format!("{}/certificates/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The options of a client that trusts the servers of [`Dialog::serve`].
#[must_use]
pub fn trusting() -> Vec<String> {
    ["--tls".into(), "--ca".into(), certificate("ca.pem")].into()
}

/// A conversation with a program behind TLS: the words of its client, and those that have to come back.
#[derive(Clone, Copy, Debug)]
pub struct Dialog<'a> {
    /// Further options of the server.
    pub serve: &'a [&'a str],
    /// Options and arguments of the program's own client, behind the address.
    pub connect: &'a [&'a str],
    /// The words that its user types.
    pub typed: &'a str,
    /// The words that clients of other projects send.
    pub sent: &'a str,
    /// Words that are in every answer.
    pub answer: &'a str,
    /// The mixins that the program can have.
    pub mixins: &'a [&'a str],
}

impl Dialog<'_> {
    /// Starts a server with TLS at an address, with further options. Returns it, and where it listens.
    #[must_use]
    pub fn serve(&self, program: Program<'_>, at: &str, options: &[&str]) -> (Process, String) {
        let (chain, key) = (certificate("server.pem"), certificate("server.key"));
        self.serve_with(program, at, &chain, &key, options)
    }

    /// Serves as [`serve`](Self::serve) does, with another certificate.
    #[must_use]
    pub fn serve_with(
        &self,
        program: Program<'_>,
        at: &str,
        chain: &str,
        key: &str,
        options: &[&str],
    ) -> (Process, String) {
        let tls = ["--tls-cert", chain, "--tls-key", key];
        let (server, listening) = program.serve(&[at], &[&tls, self.serve, options].concat());
        let address = listening[0].trim_end_matches(" with TLS").trim_start_matches("https://");
        assert_ne!(address, listening[0], "it does not say that it speaks TLS");
        (server, address.to_owned())
    }

    /// Runs the program's own client, and returns its output.
    #[must_use]
    pub fn ask(&self, program: Program<'_>, address: &str, options: &[String]) -> Ended {
        let mut command = program.command(&["connect", address]);
        command.args(self.connect).args(options).stdin(Stdio::piped());
        let mut client = Process::start(&mut command);
        client.type_in(self.typed);
        client.end()
    }

    /// Fails unless a client has ended well, with the answer.
    #[track_caller]
    fn assert_answered(&self, ended: &Ended) {
        assert_ends(ended, 0);
        assert!(ended.out.contains(self.answer), "{ended:?}");
    }
}

/// The program's own client talks to its server through TLS: over TCP and a Unix socket, under each mixin.
pub fn own_client_talks_tls(program: Program<'_>, dialog: &Dialog<'_>) {
    let folder = folder();
    let unix = format!("unix:{}", folder.path().join("s").display());
    for mixin in dialog.mixins {
        for at in ["127.0.0.1:0", &unix] {
            let (server, address) = dialog.serve(program, at, &["--mixin", mixin]);
            dialog.assert_answered(&dialog.ask(program, &address, &trusting()));
            server.send_signal(libc::SIGTERM);
            assert_ends(&server.end(), 0);
        }
    }
}

/// A client without TLS gets no answer; its server goes on and says nothing of it. Returns what the client has said.
pub fn words_in_the_clear_are_not_answered(program: Program<'_>, dialog: &Dialog<'_>) -> Ended {
    let (server, address) = dialog.serve(program, "127.0.0.1:0", &[]);
    let clear = dialog.ask(program, &address, &[]);
    assert_ends(&clear, 1);
    assert!(!clear.out.contains(dialog.answer), "{clear:?}");
    dialog.assert_answered(&dialog.ask(program, &address, &trusting()));
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert!(!ended.err.to_lowercase().contains("tls"), "{ended:?}");
    clear
}

/// A server that wants certificates serves a client that has one, and tells the others why it does not serve them.
pub fn clients_show_certificates(program: Program<'_>, dialog: &Dialog<'_>) {
    let authorities = ["--tls-client-ca", &certificate("ca.pem")];
    let (_server, address) = dialog.serve(program, "127.0.0.1:0", &authorities);
    let ask = |own: Option<&str>| {
        let file = |end| own.map(|own| certificate(&format!("{own}.{end}")));
        let pairs = [("--tls-cert", file("pem")), ("--tls-key", file("key"))];
        let own = pairs.into_iter().filter_map(|(name, file)| Some([name.to_owned(), file?]));
        dialog.ask(
            program,
            &address,
            &trusting().into_iter().chain(own.flatten()).collect::<Vec<_>>(),
        )
    };
    dialog.assert_answered(&ask(Some("client")));
    let without = ask(None);
    assert_ends(&without, 1);
    assert!(without.err.contains("give --tls-cert and --tls-key"), "{without:?}");
    let rogue = ask(Some("rogue"));
    assert_ends(&rogue, 1);
    assert!(rogue.err.contains("it does not accept the certificate of this client"), "{rogue:?}");
}

/// `openssl s_client` and Python's ssl talk to it in TLS 1.2 and 1.3. Both fail at an end without close_notify.
pub fn clients_of_others_talk_to_it(program: Program<'_>, dialog: &Dialog<'_>) {
    let (_server, address) = dialog.serve(program, "127.0.0.1:0", &[]);
    for version in ["1.2", "1.3"] {
        let option = format!("-tls{}", version.replace('.', "_"));
        for ended in
            [s_client(&address, &[&option], dialog.sent), python(&address, version, dialog.sent)]
        {
            ended.iter().for_each(|ended| dialog.assert_answered(ended));
        }
    }
}

/// `openssl s_client`, which verifies the server, sends this and waits for the server's end. `None` if there is no
/// openssl.
#[must_use]
pub fn s_client(address: &str, options: &[&str], sent: &str) -> Option<Ended> {
    if !has("openssl") {
        return None;
    }
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", address, "-CAfile", &certificate("ca.pem"), "-quiet"])
        .args(["-verify_return_error", "-verify_hostname", "localhost"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut client = Process::start(&mut command);
    client.type_in(sent);
    Some(client.end())
}

/// `openssl s_server` with the server's certificate, which sends the input that it gets. With `-quiet` it prints the
/// bytes that it receives, and nothing else. `None` if there is no openssl.
#[must_use]
pub fn s_server(options: &[&str]) -> Option<(Process, SocketAddr)> {
    if !has("openssl") {
        return None;
    }
    // openssl does not say which port it has been given, so it is given one that was free.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-accept", &address.to_string()])
        .args(["-cert", &certificate("server.pem"), "-key", &certificate("server.key")])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let server = Process::start(&mut command);
    eventually("openssl s_server listens", || TcpStream::connect(address).is_ok());
    Some((server, address))
}

/// Python's ssl: sends this, ends its own direction, and reads up to close_notify. `None` if there is no Python.
#[must_use]
pub fn python(address: &str, version: &str, sent: &str) -> Option<Ended> {
    const CLIENT: &str = include_str!("tls_client.py");
    if !has("python3") {
        return None;
    }
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-c", CLIENT, host, port, version, &certificate("ca.pem")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut client = Process::start(&mut command);
    client.type_in(sent);
    Some(client.end())
}

fn has(tool: &str) -> bool {
    let is_there = Command::new(tool).arg("version").output().is_ok();
    if !is_there {
        skip(&format!("{tool} is not installed"));
    }
    is_there
}
