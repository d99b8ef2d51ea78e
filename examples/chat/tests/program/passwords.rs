//! The address of the bus may have a password in it, which appears nowhere.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use super::redis::{Redis, Store, no_redis};
use super::{Member, open_room};
use crate::CHAT;
use test_support::process::{Ended, Process};
use test_support::program::*;
use test_support::{SOON, folder, skip_if};

/// Runs a command that ends at once, with this address of a bus in its environment.
fn ends(args: &[&str], bus: Option<&str>) -> Ended {
    let mut command = CHAT.command(args);
    command.env_remove("CHAT_BUS").envs(bus.map(|bus| ("CHAT_BUS", bus)));
    Process::start(&mut command).end()
}

#[test]
fn no_password_is_in_what_is_said_of_a_wrong_command_line() {
    let folder = folder();
    let file = folder.path().join("bus");
    let shown = file.display().to_string();
    for bus in [
        "redis://:s3cr3t/x@127.0.0.1:6379/room",
        "redis://user:s3cr3t@127.0.0.1:6379/a room",
        "redis://user:s3cr3t@127.0.0.1:port/room",
        "redis://user:s3cr3t@127.0.0.1:6379",
        "redis://user:s3cr3t#x@127.0.0.1:6379/room",
        "redis://user:s3cr3t?x@127.0.0.1:6379/room",
        "redis://user:s3cr3t%40@@127.0.0.1:6379/room",
        "redis://:s3cr3t",
        "redis://user:s3cr3t/room",
        "https://:s3cr3t@127.0.0.1:6379/room",
        "rediss://:s3cr3t@127.0.0.1:6379",
        "redis+sentinel://user:s3cr3t@127.0.0.1:26379/room",
        "redis+unix://user:s3cr3t@run/redis.sock/room",
        ":s3cr3t@127.0.0.1:6379/room",
        "user:s3cr3t@host",
    ] {
        std::fs::write(&file, format!("{bus}\n")).unwrap();
        let equals = format!("--bus={bus}");
        let serve =
            |option: &'static [&str]| [&["serve", "--bind", "127.0.0.1:0"], option].concat();
        for (args, variable) in [
            ([&serve(&["--bus"])[..], &[bus]].concat(), None),
            ([&serve(&[])[..], &[&equals]].concat(), None),
            ([&serve(&["--bus-file"])[..], &[&shown]].concat(), None),
            (serve(&[]), Some(bus)),
            // In the following commands the address stands in a wrong place.
            ([&serve(&[])[..], &[bus]].concat(), None),
            ([&serve(&["--server"])[..], &[bus]].concat(), None),
            (vec!["serve", "--bind", bus], None),
            (vec!["serve", "--bus-wait", bus], None),
            (vec!["connect", bus], None),
            (vec!["connect", "127.0.0.1:1", "--name", bus], None),
            (vec![bus], None),
            (vec!["connect", "127.0.0.1:1", "--name", "x", bus], None),
        ] {
            let ended = ends(&args, variable);
            assert!(!ended.status.success(), "{args:?}");
            assert!(!ended.err.is_empty() && !ended.err.contains("s3cr3t"), "{args:?} {ended:?}");
        }
    }
    let bus = "redis://:s3cr3t@127.0.0.1:1/room";
    assert!(!ends(&["serve", "--help"], Some(bus)).out.contains("s3cr3t"));
    // Text without a password is shown, because it shows the mistake.
    for address in ["redis://127.0.0.1:6379/room", "unix@x", "host:port"] {
        assert!(ends(&["connect", address], None).err.contains(address), "{address}");
    }
}

#[test]
fn a_file_without_a_password_is_told_as_one() {
    let folder = folder();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\nsecond line\n").unwrap();
    let gone = folder.path().join("gone");
    let serve = |bus: &str, option: &str, file: &str| {
        let ended = ends(&["serve", "--bind", "127.0.0.1:0", "--bus", bus, option, file], None);
        assert!(!ended.status.success(), "{option} {file}");
        ended.err
    };
    for (bus, option, what) in [
        ("redis://127.0.0.1:1/room", "--bus-password-file", "the password of the bus"),
        (
            "redis+sentinel://127.0.0.1:1/m/room",
            "--bus-sentinel-password-file",
            "the password of the Sentinels",
        ),
    ] {
        let told = serve(bus, option, empty.to_str().unwrap());
        assert!(
            told.contains(&format!("no password in {}: {what} is its", empty.display())),
            "{told}"
        );
        let told = serve(bus, option, gone.to_str().unwrap());
        assert!(told.contains(&format!("cannot read {what} from {}", gone.display())), "{told}");
        // This path is not a file, and its content has no end.
        let told = serve(bus, option, "/dev/zero");
        assert!(told.contains(&format!("cannot read {what} from /dev/zero: ")), "{told}");
    }
}

#[test]
fn a_bus_with_a_password_is_given_in_a_file_or_in_the_environment() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let mut connection = redis.connect();
    let words = ["SETUSER", "chat", "on", ">s3cr/t @1", "~*", "+@all"];
    ::redis::cmd("ACL").arg(&words).exec(&mut connection).unwrap();
    let folder = folder();
    let file = folder.path().join("bus");
    let shown = redis.room();
    let bus = shown.replace("redis://", "redis://chat:s3cr%2Ft%20%401@");
    std::fs::write(&file, format!("{bus}\n")).unwrap();
    let serve = ["serve", "--bind", "127.0.0.1:0", "--server", "one"];
    let start = |args: &[&str], bus: &str| {
        let mut command = CHAT.command(&[&serve, args].concat());
        let server = Process::start(command.env("CHAT_BUS", bus).stdin(Stdio::piped()));
        listening(&server);
        server
    };
    let joined = format!("* joined with the other servers at {shown}; this one is called one");
    let by_file = ["--bus-file", file.to_str().unwrap()];
    for (args, bus) in [(&by_file[..], "not looked at"), (&[], &bus)] {
        let server = start(args, bus);
        assert_eq!(server.line(), joined);
        let line = std::fs::read(format!("/proc/{}/cmdline", server.id())).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains("s3cr"));
        server.send_signal(libc::SIGTERM);
        let ended = server.end();
        assert_eq!(ended.err, "");
    }
    // A password on the command line works too, with a warning.
    let by_argument = start(&["--bus", &bus], "");
    assert_eq!(by_argument.line(), joined);
    by_argument.send_signal(libc::SIGTERM);
    let ended = by_argument.end();
    assert!(ended.err.contains("--bus-file") && !ended.err.contains("s3cr"), "{ended:?}");
}

#[test]
fn a_redis_that_repeats_the_password_does_not_have_it_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes[..count]).replace("\r\n", " ");
            // The stand-in answers like a Redis that knows no such command. The server may have ended.
            let _ = write!(stream, "-ERR unknown command, beginning with: {text}, s3cr%40t\r\n");
            let _ = said.send(text);
        }
    });
    let (server, address) = open_room(&["--bus", &format!("redis://me:s3cr%40t@{place}/room")]);
    let line = loop {
        let line = server.line();
        if line.contains("cannot be reached") {
            break line;
        }
    };
    assert!(heard.recv_timeout(SOON).unwrap().contains("s3cr@t"));
    assert!(line.contains("unknown command") && line.contains("***"), "{line}");
    assert!(!line.contains("s3cr"), "{line}");
    // Members do not learn the address of Redis.
    let mut alice = Member::join(address, "alice");
    alice.say("/who");
    server.send_signal(libc::SIGTERM);
    assert!(!alice.rest().contains(&place.to_string()));
}

#[test]
fn an_empty_variable_names_no_bus() {
    let server = Process::start(
        CHAT.command(&["serve", "--bind", "127.0.0.1:0"])
            .envs([("CHAT_BUS", ""), ("CHAT_BUS_PASSWORD", "")])
            .stdin(Stdio::piped()),
    );
    listening(&server);
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let serve = ["serve", "--bind", "127.0.0.1:0"];
    let bus = ["--bus", "rediss://127.0.0.1:1/room"];
    for (path, says) in
        [(pipe.to_str().unwrap(), "no program writes to"), ("/dev/zero", "it is a device")]
    {
        for options in [
            &["--bus-file", path][..],
            &[&bus[..], &["--bus-password-file", path]].concat(),
            &[&bus[..], &["--bus-ca", path]].concat(),
        ] {
            let ended = ends(&[&serve, options].concat(), None);
            assert_fails_in_one_line(&ended, 1, &[path, says]);
        }
    }
    for (option, value, says) in [
        ("--pace", "", "write a number per second; 0 or none is no limit"),
        ("--bus-queue", "none", "write a number of at least 1"),
    ] {
        let ended = ends(&[&serve, &[option, value][..]].concat(), None);
        assert_ends(&ended, 2);
        assert!(ended.err.contains(says), "{ended:?}");
    }
}
