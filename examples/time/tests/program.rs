//! The time program, run as a process, as a user runs it.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use test_support::process::Process;
use test_support::program::{MIXINS, Program, assert_fails_in_one_line};
use test_support::promises::{self, SpeaksFirst, every_transport_under};
use test_support::tls::{self, Dialog, s_server, trusting};

const TIME: Program<'_> = Program(env!("CARGO_BIN_EXE_time"));

#[test]
fn time_is_told_over_every_transport_under_every_mixin() {
    for mixin in MIXINS {
        every_transport_under(TIME, mixin, "", |out| {
            // The output is like `Sunday, November 22, 2026 13:37:00-UTC`.
            let words: Vec<&str> = out.split(' ').collect();
            assert!(
                matches!(words[..], [_, _, _, year, _] if year.parse::<u32>().is_ok()),
                "{out}"
            );
            assert!(words[0].ends_with("day,") && out.ends_with("-UTC\n"), "{out}");
        });
    }
}

#[test]
fn wrong_use_ends_with_2() {
    promises::wrong_use_ends_with_2(TIME);
}

#[test]
fn connecting_to_nobody_says_so_in_one_line() {
    promises::connecting_to_nobody_says_so_in_one_line(TIME);
}

#[test]
fn the_readme_names_every_option() {
    promises::the_readme_names_every_option(
        TIME,
        &["serve", "connect"],
        include_str!("../README.md"),
    );
}

#[test]
fn the_help_says_where_it_listens() {
    promises::the_help_says_where_it_listens(TIME, "127.0.0.1:3700", true);
}

#[test]
fn a_client_whose_reader_has_had_enough_ends_without_a_word() {
    for address in ["tcp:127.0.0.1:0", "udp:127.0.0.1:0"] {
        promises::a_client_whose_reader_has_had_enough_ends_without_a_word(TIME, address);
    }
}

#[test]
fn a_client_that_cannot_write_says_so_and_does_not_blame_the_connection() {
    for address in ["tcp:127.0.0.1:0", "udp:127.0.0.1:0"] {
        promises::a_client_that_cannot_write_says_so_and_does_not_blame_the_connection(
            TIME, address,
        );
    }
}

#[test]
fn a_connection_that_breaks_is_told_with_its_server() {
    promises::a_connection_that_breaks_is_told_with_its_server(TIME, SpeaksFirst::Server);
}

const DIALOG: Dialog<'_> =
    Dialog { serve: &[], connect: &[], typed: "", sent: "", answer: "-UTC", mixins: &MIXINS };

#[test]
fn the_client_talks_tls() {
    tls::own_client_talks_tls(TIME, &DIALOG);
}

#[test]
fn clients_of_others_talk_tls() {
    tls::clients_of_others_talk_to_it(TIME, &DIALOG);
}

#[test]
fn clients_show_certificates() {
    tls::clients_show_certificates(TIME, &DIALOG);
}

/// The server waits for a handshake, and the client for the time.
#[test]
fn a_client_without_tls_is_told_of_it() {
    let ended = tls::words_in_the_clear_are_not_answered(TIME, &DIALOG);
    assert!(ended.err.contains("without a word; if it speaks TLS, give --tls"), "{ended:?}");
}

#[test]
fn a_server_that_says_more_than_a_time_is_a_wrong_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let talks = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(&[b'x'; 65_536]).unwrap();
    });
    let ended = Process::start(&mut TIME.command(&["connect", &address])).end();
    assert_fails_in_one_line(&ended, 1, &["sends more than a time"]);
    talks.join().unwrap();
}

/// The server is openssl's, which sends no close_notify if it is killed.
#[test]
fn a_time_that_may_have_been_cut_short_is_not_shown() {
    let Some((server, address)) = s_server(&[]) else { return };
    let mut client = TIME.command(&["connect", &address.to_string()]);
    let client = Process::start(client.args(trusting()));
    while !server.line().starts_with("CIPHER is") {}
    server.ask("half past");
    server.send_signal(9);
    assert_fails_in_one_line(&client.end(), 1, &["broke: it ended without a close_notify"]);
}
