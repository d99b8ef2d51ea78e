//! Files through TLS.

use super::*;
use test_support::folder;
use test_support::tls::{self, Dialog, s_server, trusting};

/// A dialog in which a client sends [`FILE`], which is in the repository.
fn dialog<'a>(serve: &'a [&'a str], connect: &'a [&'a str]) -> Dialog<'a> {
    // The server has no answer for the clients of other projects: it refuses their message, and says so.
    let (sent, answer) = ("GET nothing that it knows\n", "stored \"client.rs\"");
    Dialog { serve, connect, typed: "", sent, answer, mixins: &MIXINS }
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/client.rs");

#[test]
fn files_come_through_tls_as_they_are() {
    let folder = folder();
    let model = folder.path().join("model");
    let serve = ["--dir", model.to_str().unwrap(), "--conflict", "replace"];
    // The client's stdout has a line for the stored file.
    tls::own_client_talks_tls(UPLOAD, &dialog(&serve, &[FILE]));
    assert_eq!(fs::read(model.join("client.rs")).unwrap(), fs::read(FILE).unwrap());
}

#[test]
fn a_broken_upload_goes_on_through_tls() {
    let folder = folder();
    let (file, model) = (folder.path().join("file"), folder.path().join("model"));
    fs::write(&file, vec![7; 5_000_000]).unwrap();
    let serve = ["--dir", model.to_str().unwrap()];
    let connect = ["--resume", file.to_str().unwrap()];
    let dialog = dialog(&serve, &connect);
    let (_server, address) = dialog.serve(UPLOAD, "127.0.0.1:0", &[]);
    assert_ends(&dialog.ask(UPLOAD, &address, &trusting()), 0);
    let again = dialog.ask(UPLOAD, &address, &trusting());
    assert_ends(&again, 0);
    assert!(format!("{again:?}").contains("is there already"), "{again:?}");
}

/// A refusal comes in the middle of a file. The client sees it although tickets of TLS came first.
#[test]
fn a_refusal_is_heard_before_the_end_of_the_file() {
    let folder = folder();
    let (file, model) = (folder.path().join("file"), folder.path().join("model"));
    fs::write(&file, vec![7; 5_000_000]).unwrap();
    let serve = ["--dir", model.to_str().unwrap(), "--max-file", "1M"];
    let connect = [file.to_str().unwrap()];
    let dialog = dialog(&serve, &connect);
    let (_server, address) = dialog.serve(UPLOAD, "127.0.0.1:0", &[]);
    let ended = dialog.ask(UPLOAD, &address, &trusting());
    assert_ends(&ended, 1);
    assert!(format!("{ended:?}").contains("a file may have"), "{ended:?}");
}

#[test]
fn clients_of_others_are_refused_in_words() {
    let folder = folder();
    let model = folder.path().join("model");
    let serve = ["--dir", model.to_str().unwrap()];
    let dialog = Dialog { answer: "a message is too long", ..dialog(&serve, &[]) };
    tls::clients_of_others_talk_to_it(UPLOAD, &dialog);
}

#[test]
fn clients_show_certificates() {
    let folder = folder();
    let model = folder.path().join("model");
    let serve = ["--dir", model.to_str().unwrap()];
    tls::clients_show_certificates(UPLOAD, &dialog(&serve, &[FILE]));
}

#[test]
fn words_in_the_clear_are_not_answered() {
    let folder = folder();
    let model = folder.path().join("model");
    let serve = ["--dir", model.to_str().unwrap()];
    let ended = tls::words_in_the_clear_are_not_answered(UPLOAD, &dialog(&serve, &[FILE]));
    assert!(ended.err.contains("it speaks TLS: give --tls"), "{ended:?}");
}

/// The client speaks the tutorial's wire to a server that prints what it gets.
#[test]
fn a_server_of_openssl_gets_a_file() {
    let Some((server, address)) = s_server(&["-quiet"]) else { return };
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, " and its bytes\n").unwrap();
    let mut command = UPLOAD.command(&["connect", &address.to_string(), "--wire", "document"]);
    let client = Process::start(command.args(["--pause", "1"]).args(trusting()).arg(&file));
    assert_eq!(server.line(), "post|file|15 and its bytes");
    assert_ends(&client.end(), 0);
}
