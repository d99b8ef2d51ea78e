//! A room behind TLS: our own client, openssl and Python as clients, and members that hear each other.

use super::*;
use test_support::tls::{self, Dialog, s_server, trusting};

/// The mixins that can serve a room, which needs several members in one memory.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ROOMS: &[&str] = &["threading", "pool", "green"];
/// The mixins that can serve a room on systems without coroutines, which need Linux.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ROOMS: &[&str] = &["threading", "pool"];

const DIALOG: Dialog<'_> = Dialog {
    serve: &[],
    connect: &["--name", "alice"],
    typed: "/who\nq\n",
    sent: "/nick alice\n/who\n/quit\n",
    answer: "* 1 here: alice",
    mixins: ROOMS,
};

#[test]
fn the_client_talks_tls() {
    tls::own_client_talks_tls(CHAT, &DIALOG);
}

#[test]
fn clients_of_others_talk_tls() {
    tls::clients_of_others_talk_to_it(CHAT, &DIALOG);
}

#[test]
fn clients_show_certificates() {
    tls::clients_show_certificates(CHAT, &DIALOG);
}

#[test]
fn words_in_the_clear_are_not_answered() {
    let ended = tls::words_in_the_clear_are_not_answered(CHAT, &DIALOG);
    assert!(ended.err.contains("it speaks TLS: give --tls"), "{ended:?}");
}

/// Lines arrive while the client waits for its user, and are sent while it waits for lines.
#[test]
fn members_hear_each_other() {
    let (_server, address) = DIALOG.serve(CHAT, "127.0.0.1:0", &[]);
    let member = |name: &str| {
        let mut command = CHAT.command(&["connect", &address, "--name", name]);
        let member = Process::start(command.args(trusting()).stdin(Stdio::piped()));
        while !member.line().starts_with(&format!("* you are {name}")) {}
        member
    };
    let (bob, carol) = (member("bob"), member("carol"));
    assert_eq!(bob.line(), "* carol has joined");
    for number in 0..20 {
        bob.ask(&format!("to carol {number}"));
        assert_eq!(carol.line(), format!("bob: to carol {number}"));
        carol.ask(&format!("to bob {number}"));
        assert_eq!(bob.line(), format!("carol: to bob {number}"));
    }
    bob.ask("q");
    assert_ends(&bob.end(), 0);
    assert_eq!(carol.line(), "* bob has left");
}

#[test]
fn a_server_of_openssl_is_talked_to() {
    let Some((server, address)) = s_server(&["-quiet"]) else { return };
    let mut command = CHAT.command(&["connect", &address.to_string(), "--name", "alice"]);
    let client = Process::start(command.args(trusting()).stdin(Stdio::piped()));
    assert_eq!(server.line(), "/nick alice");
    server.ask("* the server stops; goodbye");
    assert_eq!(client.line(), "* the server stops; goodbye");
    client.ask("hello");
    assert_eq!(server.line(), "hello");
    client.ask("q");
    assert_ends(&client.end(), 0);
}
