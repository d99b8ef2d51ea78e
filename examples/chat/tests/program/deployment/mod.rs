//! A Redis as it is in real deployments: behind TLS, at a Unix socket, with users, with Sentinels and a replica.

mod sentinel;
mod stores;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::redis::no_redis;
use super::{CHAT, Member, open_room};
use stores::Server;
use test_support::process::Process;
use test_support::program::*;
use test_support::tls::certificate;
use test_support::{folder, skip_if};

const JOINED: &str = "* joined with the other servers at ";
const LOST: &str = "* the other servers cannot be reached: ";

/// A server of the room, once it has joined.
fn joined(name: &str, options: &[&str]) -> (Process, SocketAddr) {
    let (server, address) = open_room(&[&["--server", name], options].concat());
    operator_reads(&server, JOINED);
    (server, address)
}

/// The next line of the operator that begins with `beginning`.
fn operator_reads(server: &Process, beginning: &str) -> String {
    loop {
        let line = server.line();
        if line.starts_with(beginning) {
            return line;
        }
    }
}

/// The words of a server about a bus that it cannot use.
fn refusal(options: &[&str]) -> String {
    let (server, _) = open_room(options);
    operator_reads(&server, LOST)
}

/// Fails unless two servers of the room with these options hear each other.
fn hear_each_other(options: &[&str]) {
    let (_one, at_one) = joined("one", options);
    let (_two, at_two) = joined("two", options);
    let (mut alice, mut bob) = (Member::join(at_one, "alice"), Member::join(at_two, "bob"));
    alice.sees("* bob@two has joined");
    bob.say("hello");
    assert_eq!(alice.hears(), "bob@two: hello");
    alice.say("yourself");
    assert_eq!(bob.hears(), "alice@one: yourself");
}

#[test]
fn with_tls_each_side_shows_a_certificate_and_says_what_is_wrong_with_the_other() {
    let Some(server) = tls_server() else { return };
    let bus = format!("rediss://127.0.0.1:{}/room", server.port);
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(certificate);
    let trusting = ["--bus", &bus, "--bus-ca", &ca];
    let own = ["--bus-tls-cert", &cert, "--bus-tls-key", &key];
    hear_each_other(&[&trusting[..], &own].concat());
    assert!(refusal(&trusting).contains("give --bus-tls-cert and --bus-tls-key"));
    let unknown = refusal(&[&["--bus", &bus][..], &own].concat());
    assert!(unknown.contains("not trusted here") && unknown.contains("--bus-ca FILE"), "{unknown}");
    let rogue = ["rogue.pem", "rogue.key"].map(certificate);
    let rogue = ["--bus-tls-cert", &*rogue[0], "--bus-tls-key", &*rogue[1]];
    let rogue = refusal(&[&trusting[..], &rogue].concat());
    assert!(rogue.contains("does not accept the certificate"), "{rogue}");
    let name = ["--bus-tls-name", "other.example"];
    let other = refusal(&[&trusting[..], &own, &name].concat());
    assert!(
        other.contains("not for other.example; ") && other.contains("--bus-tls-name"),
        "{other}"
    );
    let by_name = bus.replace("127.0.0.1", "localhost");
    drop(joined("by-name", &[&["--bus", &by_name, "--bus-ca", &ca][..], &own].concat()));
    // One server connects without TLS to a Redis that speaks it, and another one with TLS to a Redis that does not.
    let clear = refusal(&["--bus", &bus.replace("rediss", "redis")]);
    assert!(clear.contains("write rediss://"), "{clear}");
    let plain = Server::start(&[]);
    let bus = format!("rediss://127.0.0.1:{}/room", plain.port);
    let clear = refusal(&["--bus", &bus, "--bus-ca", &ca]);
    assert!(clear.contains("speak TLS"), "{clear}");
}

/// A Redis that speaks TLS, and asks for certificates. `None` if that cannot be tried here.
fn tls_server() -> Option<Server> {
    // `redis-server` refuses the second option in any case, and the first one only if it was built without TLS.
    let knows_tls = || {
        let options = ["--tls-port", "0", "--no-such-option", "0"];
        let refused = Command::new("redis-server").args(options).output();
        refused.is_ok_and(|output| {
            !String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).contains("tls-port")
        })
    };
    let missing = no_redis().or_else(|| (!knows_tls()).then_some("redis-server has no TLS"));
    if skip_if(missing) {
        return None;
    }
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(certificate);
    let files = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key];
    Some(Server::start_on("--tls-port", &[&["--port", "0"][..], &files].concat()))
}

#[test]
fn a_certificate_is_read_again_at_each_connection() {
    let Some(server) = tls_server() else { return };
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let copy = |from: &str, to: &str| {
        std::fs::copy(certificate(from), folder.path().join(to)).unwrap();
    };
    copy("rogue.pem", "cert");
    copy("rogue.key", "key");
    let bus = format!("rediss://127.0.0.1:{}/room", server.port);
    let (ca, cert, key) = (certificate("ca.pem"), path("cert"), path("key"));
    let files = ["--bus-ca", &ca, "--bus-tls-cert", &cert, "--bus-tls-key", &key];
    let (one, _) = open_room(&[&["--bus", &bus][..], &files].concat());
    operator_reads(&one, LOST);
    copy("client.key", "key");
    copy("client.pem", "cert");
    operator_reads(&one, JOINED);
}

#[test]
fn a_redis_at_a_unix_socket_is_joined_and_one_that_is_not_there_is_told() {
    if skip_if(no_redis()) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("redis.sock").display().to_string();
    let missing = refusal(&["--bus", &format!("redis+unix://{path}/room")]);
    assert!(missing.contains(&format!("cannot connect to {path}: No such file")), "{missing}");
    let _redis = Server::start(&["--unixsocket", &path]);
    hear_each_other(&["--bus", &format!("redis+unix://{path}/3/room")]);
}

#[test]
fn a_password_is_changed_without_a_restart() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Server::start(&[]);
    let set = |password: &str| {
        let password = format!(">{password}");
        redis.ask("ACL", &["SETUSER", "chat", "reset", "on", &password, "~chat:*", "+@all"]);
    };
    set("f1rst");
    let folder = folder();
    let file = folder.path().join("password");
    let shown = file.display().to_string();
    std::fs::write(&file, "f1rst\nfurther lines are not looked at\n").unwrap();
    let bus = format!("redis://chat@127.0.0.1:{}/room", redis.port);
    let options = ["--bus", &bus, "--bus-password-file", &shown];
    let (one, at_one) = joined("one", &options);
    let mut alice = Member::join(at_one, "alice");
    // The operator changes the password in Redis first: existing connections stay, and no new one is let in.
    set("s3cond");
    redis.ask("CLIENT", &["KILL", "USER", "chat"]);
    let lost = operator_reads(&one, LOST);
    if lost.contains("WRONGPASS") {
        assert!(lost.contains("its file"), "{lost}");
    }
    assert!(!lost.contains("f1rst"), "{lost}");
    std::fs::write(&file, "s3cond\n").unwrap();
    operator_reads(&one, JOINED);
    let (_two, at_two) = joined("two", &options);
    let bob = Member::join(at_two, "bob");
    bob.say("hello");
    assert_eq!(alice.hears(), "bob@two: hello");
    // A file that is missing or empty is reported at the start.
    std::fs::write(&file, "\n").unwrap();
    let serve = ["serve", "--bind", "127.0.0.1:0"];
    let ended = CHAT.run(&[&serve[..], &options].concat());
    assert_fails_in_one_line(&ended, 1, &["no password", &shown]);
    std::fs::remove_file(&file).unwrap();
    let ended = CHAT.run(&[&serve[..], &options].concat());
    assert_fails_in_one_line(&ended, 1, &["cannot read the password", &shown, "No such file"]);
}

/// The access rule of Redis in the operators' page, which operators copy, allows everything that a server does.
#[test]
fn the_rule_of_the_page_for_operators_suffices() {
    if skip_if(no_redis()) {
        return;
    }
    let page = include_str!("../../../../../docs/operations.md");
    let rule = page.lines().find_map(|line| line.strip_prefix("user chat ")).expect("a rule");
    let redis = Server::start(&[]);
    let rule: Vec<_> = ["SETUSER", "chat", "reset"].into_iter().chain(rule.split(' ')).collect();
    redis.ask("ACL", &rule);
    let password = rule.iter().find_map(|word| word.strip_prefix('>')).expect("a password");
    let folder = folder();
    let file = folder.path().join("password");
    std::fs::write(&file, password).unwrap();
    let bus = format!("redis://chat@127.0.0.1:{}/lobby", redis.port);
    // The stream is so short that it is trimmed at once.
    let options =
        ["--bus", &bus, "--bus-password-file", file.to_str().unwrap(), "--bus-length", "2"];
    let (one, at_one) = joined("one", &options);
    let (two, at_two) = joined("two", &options);
    let (mut alice, mut bob) = (Member::join(at_one, "alice"), Member::join(at_two, "bob"));
    alice.sees("* bob@two has joined");
    for number in 0..10 {
        bob.say(&format!("line {number}"));
        assert_eq!(alice.hears(), format!("bob@two: line {number}"));
    }
    while alice.asks_who() != "* 2 here: alice, bob@two" {}
    alice.say("@bob@two between us");
    assert_eq!(bob.hears(), "alice@one -> bob: between us");
    // A second server with the name uses further commands. Redis refuses no command of any server.
    let again = [&["serve", "--bind", "127.0.0.1:0", "--server", "one"], &options[..]].concat();
    let mut command = CHAT.command(&again);
    assert_ends(&Process::start(command.stdin(Stdio::piped())).end(), 1);
    std::thread::sleep(Duration::from_secs(2));
    two.ask("/quit");
    assert_ends(&two.end(), 0);
    operator_reads(&one, "* the server two has ended");
    let refused = format!("{:?}", redis.ask("ACL", &["LOG"]));
    assert_eq!(refused, "array([])");
}

#[test]
fn the_address_in_a_file_may_lead_elsewhere_but_not_into_another_room() {
    if skip_if(no_redis()) {
        return;
    }
    let (old, new) = (Server::start(&[]), Server::start(&["--requirepass", "s3cret"]));
    let folder = folder();
    let file = folder.path().join("bus");
    let write = |text: &str| {
        // The file is replaced in one step, because it may be read at any moment.
        let next = folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &file).unwrap();
    };
    write(&format!("redis://127.0.0.1:{}/room", old.port));
    let (one, _) = joined("one", &["--bus-file", file.to_str().unwrap()]);
    write(&format!("redis://127.0.0.1:{}/lobby", new.port));
    drop(old);
    // Reader and writer both report. One of them may have read the address before it was changed.
    operator_reads(&one, LOST);
    write(&format!("redis://:s3cret@127.0.0.1:{}/room", new.port));
    let at = operator_reads(&one, JOINED);
    assert!(at.contains(&format!("redis://127.0.0.1:{}/room", new.port)), "{at}");
}

#[test]
fn the_password_may_be_in_the_environment() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Server::start(&["--requirepass", "s3cret"]);
    let bus = format!("redis://127.0.0.1:{}/room", redis.port);
    let without = refusal(&["--bus", &bus]);
    assert!(without.contains("NOAUTH") && without.contains("--bus-password-file"), "{without}");
    let mut command = CHAT.command(&["serve", "--bind", "127.0.0.1:0", "--bus", &bus]);
    let command = command.env("CHAT_BUS_PASSWORD", "s3cret").stdin(Stdio::piped());
    let server = Process::start(command);
    operator_reads(&server, JOINED);
}

/// The password comes as `--bus-password-file <(pass redis)` gives it. The bus's reader and writer both use it, also when
/// they connect again.
#[test]
fn the_password_may_come_from_a_pipe() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Server::start(&["--requirepass", "s3cret"]);
    let shell = "exec \"$@\" --bus-password-file <(echo s3cret)";
    let bus = format!("redis://127.0.0.1:{}/room", redis.port);
    let mut command = Command::new("bash");
    command.args(["-c", shell, "bash"]).arg(CHAT.path());
    command.args(["serve", "--bind", "127.0.0.1:0", "--bus", &bus]);
    let server = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    operator_reads(&server, JOINED);
    redis.ask_as(":s3cret@", "CLIENT", &["KILL", "TYPE", "normal"]);
    operator_reads(&server, LOST);
    operator_reads(&server, JOINED);
}

#[test]
fn a_redis_that_hangs_does_not_hold_its_reader() {
    // The kernel accepts connections and bytes for this listener, and nobody answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let place = silent.local_addr().unwrap();
    let ca = certificate("ca.pem");
    for (bus, options) in [
        (format!("redis://{place}/room"), &[][..]),
        (format!("rediss://{place}/room"), &["--bus-ca", &ca]),
        (format!("redis+sentinel://{place}/m/room"), &[]),
    ] {
        let began = Instant::now();
        let lost = refusal(&[&["--bus", &*bus], options].concat());
        assert!(began.elapsed() < Duration::from_secs(20), "{lost}");
        assert!(lost.contains(&place.to_string()), "{lost}");
    }
}

#[test]
fn a_name_with_a_dead_address_leads_to_the_next_one() {
    if skip_if(no_redis()) {
        return;
    }
    // Where the machine has IPv6, `localhost` is `[::1]` as well, at which nothing listens.
    let redis = Server::start(&[]);
    drop(joined("one", &["--bus", &format!("redis://localhost:{}/room", redis.port)]));
}

#[test]
fn options_that_do_not_belong_together_are_wrong_use() {
    let ca = certificate("ca.pem");
    for (options, says) in [
        (&["--bus", "redis://127.0.0.1:1/room", "--bus-ca", &ca][..], "write rediss://"),
        (&["--bus", "redis://127.0.0.1:1/room", "--bus-tls-name", "x"], "write rediss://"),
        (
            &["--bus", "redis://127.0.0.1:1/room", "--bus-sentinel-password-file", &ca],
            "redis+sentinel://",
        ),
        (&["--bus", "rediss://127.0.0.1:1/room", "--bus-tls-cert", &ca], "--bus-tls-key"),
        (&["--bus", "redis://127.0.0.1:1/room", "--bus-length", "0"], "at least 1"),
        (&["--bus-ca", &ca], "give --bus, --bus-file or CHAT_BUS"),
        (&["--bus-password-file", &ca], "give --bus, --bus-file or CHAT_BUS"),
    ] {
        let ended = CHAT.run(&[&["serve", "--bind", "127.0.0.1:0"], options].concat());
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.err.contains(says), "{ended:?}");
    }
    // A file that is missing is not wrong use.
    let bus = ["--bus", "rediss://127.0.0.1:1/room", "--bus-ca", "/nowhere"];
    let ended = CHAT.run(&[&["serve", "--bind", "127.0.0.1:0"], &bus[..]].concat());
    assert_fails_in_one_line(&ended, 1, &["/nowhere", "No such file"]);
    assert!(!Path::new("/nowhere").exists());
}
