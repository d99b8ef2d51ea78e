//! The upload program: files arrive whole and verified, or not at all.

mod attacks;
mod codec;
mod document_wire;
mod entries;
mod resume;
mod strangers;
mod tls;
mod transfer;

#[path = "../../src/document.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod document;
#[path = "../../src/names.rs"]
#[allow(dead_code, reason = "a test has no use for a name that nobody else has")]
mod names;
#[path = "../../src/protocol.rs"]
#[allow(dead_code, reason = "a client of the tests does not do all that a client may")]
mod protocol;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use protocol::{Code, DATA_BYTES, Message, Put, VERSION, data_header};
use test_support::connect;
use test_support::process::{Ended, Process};
use test_support::program::*;
use test_support::promises;

const UPLOAD: Program<'_> = Program(env!("CARGO_BIN_EXE_upload"));

#[test]
fn the_readme_names_every_option() {
    promises::the_readme_names_every_option(
        UPLOAD,
        &["serve", "connect"],
        include_str!("../../README.md"),
    );
}

#[test]
fn the_help_says_where_it_listens() {
    promises::the_help_says_where_it_listens(UPLOAD, "127.0.0.1:8000", false);
}

/// Starts a server that stores in `model` of this folder, and returns its address as well.
fn serve_in(folder: &Path, options: &[&str]) -> (Process, String) {
    let (server, mut addresses) = serve_at(folder, &["127.0.0.1:0"], options);
    (server, addresses.remove(0))
}

fn serve_at(folder: &Path, addresses: &[&str], options: &[&str]) -> (Process, Vec<String>) {
    let model = folder.join("model");
    let options = [&["--dir", model.to_str().unwrap()], options].concat();
    UPLOAD.serve(addresses, &options)
}

/// Runs a client that sends these files and folders of `folder`.
fn send(folder: &Path, address: &str, files: &[&str]) -> Ended {
    send_with(folder, address, &[], files)
}

fn send_with(folder: &Path, address: &str, options: &[&str], files: &[&str]) -> Ended {
    start_sending(folder, address, options, files).end()
}

fn start_sending(folder: &Path, address: &str, options: &[&str], files: &[&str]) -> Process {
    let mut command = UPLOAD.command(&["connect"]);
    command.args(options).arg(address).args(files).current_dir(folder);
    Process::start(command.stdout(Stdio::piped()))
}

/// The contents of all files below a folder, by their paths in it. A link, or another entry that is no file, has the content
/// `no file`.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            let bytes = if kind.is_file() { fs::read(&path) } else { Ok(b"no file".into()) };
            match bytes {
                // The file has got another name since the folder was read.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                bytes => {
                    found.insert(name, bytes.unwrap());
                }
            }
        }
    }
    found
}

/// The stored files.
fn stored(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    contents(&folder.join("model"))
}

/// Partial files, on their way or left behind.
fn partial_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let model = folder.join("model");
    let names = stored(folder).into_keys().filter(|name| name.ends_with(".part"));
    names.map(|name| model.join(name)).collect()
}

/// Pseudo-random bytes, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A client that sends any message, valid or not.
struct Peer {
    stream: TcpStream,
}

impl Peer {
    fn connect(address: &str) -> Self {
        let mut peer = Self { stream: connect(address.parse().unwrap()) };
        peer.say(&Message::Hello { version: VERSION });
        assert_eq!(peer.hear(), Some(Message::Hello { version: VERSION }));
        peer
    }

    fn say(&mut self, message: &Message) {
        self.stream.write_all(&message.encode()).unwrap();
    }

    fn hear(&mut self) -> Option<Message> {
        Message::read(&mut self.stream).unwrap()
    }

    fn put(&mut self, path: &[&[u8]], content: &[u8], resume: bool) {
        self.put_size(path, content, content.len() as u64, resume);
    }

    fn put_size(&mut self, path: &[&[u8]], content: &[u8], size: u64, resume: bool) {
        let path = path.iter().map(|name| name.to_vec()).collect();
        let beginning = &content[..content.len().min(protocol::FINGERPRINT_BYTES)];
        let fingerprint = *blake3::hash(beginning).as_bytes();
        self.say(&Message::Put(Put { path, size, fingerprint, resume }));
    }

    fn data(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(DATA_BYTES) {
            self.stream.write_all(&data_header(piece.len())).unwrap();
            self.stream.write_all(piece).unwrap();
        }
    }

    fn end(&mut self, content: &[u8]) {
        self.say(&Message::End(*blake3::hash(content).as_bytes()));
    }

    /// Sends a whole file, and returns where it was stored.
    fn store(&mut self, name: &str, content: &[u8]) -> String {
        self.put(&[name.as_bytes()], content, false);
        self.data(content);
        self.end(content);
        match self.hear() {
            Some(Message::Done { path }) => String::from_utf8(path.join(&b'/')).unwrap(),
            other => panic!("{name} was not stored: {other:?}"),
        }
    }

    #[track_caller]
    fn expect_refusal(&mut self, code: Code) -> String {
        match self.hear() {
            Some(Message::Refused(refusal)) if refusal.code == code => refusal.text,
            other => panic!("no refusal as {code:?} but {other:?}"),
        }
    }

    /// Fails unless the server has ended the connection, in order or by a reset.
    #[track_caller]
    fn expect_end(&mut self) {
        match Message::read(&mut self.stream) {
            Ok(None) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("the connection goes on: {other:?}"),
        }
    }
}
