//! A line of servers that hand over to each other, and their clients.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use test_support::process::Process;
use test_support::program::Program;
use test_support::tls::certificate;
use test_support::{SOON, connect, eventually, folder, read_line};

use crate::ECHO;

/// Servers with the same addresses and one path at which they hand over. Those that are left at the end of the test are killed.
pub struct Line {
    addresses: Vec<String>,
    folder: tempfile::TempDir,
}

impl Line {
    /// A line without servers. `FOLDER` in an address stands for a folder of the line's own.
    pub fn at(addresses: &[&str]) -> Self {
        let folder = folder();
        let path = folder.path().to_str().unwrap();
        let addresses = addresses.iter().map(|address| address.replace("FOLDER", path)).collect();
        Self { addresses, folder }
    }

    /// A file in that folder; `h` is the socket at which the servers hand over.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command of a server.
    pub fn command(&self, options: &[&str]) -> Command {
        self.command_of(ECHO, options)
    }

    /// The command of a server whose program has another path.
    pub fn command_of(&self, program: Program<'_>, options: &[&str]) -> Command {
        let mut command = program.command(&["serve"]);
        command.args(self.addresses.iter().flat_map(|address| ["--bind", address]));
        command.arg("--handover").arg(self.file("h")).args(options);
        command
    }

    /// Starts a server.
    pub fn start(&self, options: &[&str]) -> Process {
        Process::start(&mut self.command(options))
    }

    /// The addresses at which the next server that prints to this output listens.
    pub fn listening(&self, server: &Process) -> Vec<String> {
        let address = || loop {
            // A pool prints one more line.
            if let Some(address) = server.line().strip_prefix("listening on ") {
                break address.to_owned();
            }
        };
        self.addresses.iter().map(|_| address()).collect()
    }

    /// The live servers of this line, found by their command lines, which have the line's own folder in them.
    pub fn processes(&self) -> Vec<u32> {
        let handover = self.file("h");
        let handover = handover.to_str().unwrap().as_bytes();
        let is_one = |process: &u32| {
            let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == handover)
        };
        let all = std::fs::read_dir("/proc").unwrap();
        let numbers = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter(is_one).collect()
    }

    /// The server that `process` has started as its successor. (Children of the successor have the same environment, and
    /// higher numbers.)
    pub fn started_by(&self, process: u32) -> u32 {
        let is_told = |candidate: &u32| {
            let environment =
                std::fs::read(format!("/proc/{candidate}/environ")).unwrap_or_default();
            let told = format!(":{process}");
            environment.split(|byte| *byte == 0).any(|variable| {
                variable.starts_with(b"SOCKETSERVER_HANDOVER=")
                    && variable.ends_with(told.as_bytes())
            })
        };
        self.processes().into_iter().filter(is_told).min().expect("a successor")
    }

    /// Stops all servers in order.
    pub fn stop(&self) {
        for process in self.processes() {
            // The process may be a child that serves one request, and have ended.
            let _ = Command::new("kill").arg(process.to_string()).stderr(Stdio::null()).status();
        }
        eventually("all have ended", || self.processes().is_empty());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for process in self.processes() {
            // The process may be ending.
            let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
        }
    }
}

/// A client of an echo server, over any transport.
pub enum Client {
    /// A connection.
    Stream(Box<dyn Duplex>),
    /// A socket of UDP.
    Udp(UdpSocket),
    /// A Unix datagram socket, and the folder of its own name.
    Unixgram(
        UnixDatagram,
        #[expect(dead_code, reason = "it is removed at the end")] tempfile::TempDir,
    ),
}

pub trait Duplex: Read + Write + Send {}
impl<S: Read + Write + Send> Duplex for S {}

impl Client {
    /// Makes a client for an address as a server prints it.
    pub fn of(address: &str) -> Self {
        if let Some(address) = address.strip_suffix(" with TLS") {
            return Self::over_tls(address);
        }
        match address.split_once(':') {
            Some(("udp", address)) => {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(address).unwrap();
                socket.set_read_timeout(Some(SOON)).unwrap();
                Self::Udp(socket)
            }
            Some(("unix", path)) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                Self::Stream(Box::new(stream))
            }
            Some(("unixgram", path)) => {
                let folder = folder();
                let socket = UnixDatagram::bind(folder.path().join("c")).unwrap();
                socket.connect(path).unwrap();
                socket.set_read_timeout(Some(SOON)).unwrap();
                Self::Unixgram(socket, folder)
            }
            _ => Self::Stream(Box::new(connect(address.parse().unwrap()))),
        }
    }

    fn over_tls(address: &str) -> Self {
        static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
            let mut roots = RootCertStore::empty();
            let trusted = CertificateDer::pem_file_iter(certificate("ca.pem")).unwrap();
            roots.add_parsable_certificates(trusted.map(Result::unwrap));
            let config = ClientConfig::builder().with_root_certificates(roots);
            Arc::new(config.with_no_client_auth())
        });
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(Arc::clone(&CONFIG), name).unwrap();
        let mut stream = StreamOwned::new(session, connect(address.parse().unwrap()));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        Self::Stream(Box::new(stream))
    }

    /// Sends a line to a server that answers one line and closes, and expects the line and the end. (Over TLS an end
    /// without close_notify is an error.)
    pub fn asks_for_one(&mut self, text: &str) {
        self.asks(text);
        if let Self::Stream(stream) = self {
            assert_eq!(test_support::read_to_end(stream), b"");
        }
    }

    /// Sends a line, and expects it back.
    pub fn asks(&mut self, text: &str) {
        let line = format!("{text}\n");
        let answer = match self {
            Self::Stream(stream) => {
                stream.write_all(line.as_bytes()).unwrap();
                read_line(stream)
            }
            Self::Udp(socket) => {
                socket.send(line.as_bytes()).unwrap();
                test_support::receive_text(socket)
            }
            Self::Unixgram(socket, _) => {
                socket.send(line.as_bytes()).unwrap();
                test_support::receive_text(socket)
            }
        };
        assert_eq!(answer, line);
    }
}
