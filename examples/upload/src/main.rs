//! Upload: stores files, whole and verified, or not at all.
//!
//! ```text
//! cargo run --release --bin upload -- serve --dir model
//! cargo run --release --bin upload -- connect 127.0.0.1:8000 README.md src
//! cargo run --release --bin upload -- connect --resume 127.0.0.1:8000 large.iso
//! ```
//!
//! The bytes of a file are written to a temporary file in the folder, `.upload-KEY-SIZE.part`. When the BLAKE3 digest of
//! the whole is right, the file is synced and renamed, and its folder is synced. Only then is the client told. A broken
//! upload leaves its part, and `--resume` goes on after that part, if both sides compute the same digest of it. A file
//! that is stored already is not sent again. A new upload does not touch the parts of others. Parts that no client has
//! continued for a week (`--keep`) are removed when the next client connects. `--max-total` counts a file on its way
//! with its whole size, and the part of a broken upload with the bytes that it has.
//!
//! A connection that begins with `post|` comes from the tutorial's client, and `connect --wire document` speaks that
//! wire to the tutorial's server. The wire has no answer and no digest, and nothing ends its header. So a file that
//! begins with a digit, and arrives in one piece with its header, cannot be told from a larger file. `document.rs`
//! says how it is read then.
//!
//! Limits: 1024 clients at once (`--max-clients`). Names are UTF-8. Modes, times and links are not kept. The folder and
//! those below it have to be one file system, with `renameat2` (ext4, xfs, btrfs, tmpfs). Clients are not asked for a
//! name or a password; with `--tls-client-ca` they show a certificate. Without `--tls-cert` nothing is encrypted. Of the
//! parts of one name, size and beginning the four longest are offered to a client that resumes, so that a stranger who
//! knows all three can make another client begin anew. The folder is read once a minute, or under `forking` at the
//! beginning of each connection. With `--max-total` it is also read for each file, with all folders below it.

mod client;
mod digest;
mod document;
mod document_client;
mod handler;
mod names;
mod pace;
mod partial;
mod protocol;
mod report;
mod sources;
mod store;
mod total;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use client::{Client, Stored, Trouble};
use common::Endpoint;
use common::client::{ClientTls, open};
use common::{Failure, FirstWord, NoDatagrams, Program, ServeOptions, ServeTls};
use handler::Upload;
use report::Report;
use socketserver::handler::MakeHandler;
use socketserver::tls::Tls;
use socketserver::{DatagramRequest, Limits, StreamRequest};
use sources::Sources;
use store::{Conflict, Rules, Store};

/// Stores files, whole and verified, or not at all.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take files until Ctrl-C
    #[command(mut_arg("bind", common::streams::<UploadServer>))]
    #[command(mut_arg("max_clients", |clients| clients.default_value(CLIENTS)))]
    Serve {
        #[command(flatten)]
        options: Box<ServeOptions>,
        #[command(flatten)]
        tls: ServeTls,
        #[command(flatten)]
        rules: RuleOptions,
    },
    /// Send files and folders
    Connect {
        /// The server's address
        #[arg(value_name = "ADDR", value_parser = Endpoint::of_streams)]
        address: Endpoint,
        /// Files, and folders with all that is in them
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Go on where an earlier upload was broken off, and leave out what is there already
        #[arg(long, conflicts_with = "wire")]
        resume: bool,
        /// How to talk to the server
        #[arg(long, value_enum)]
        wire: Option<Wire>,
        /// How long to wait before and after each header of --wire document, in milliseconds, so that its
        /// server receives it by itself
        #[arg(long, value_name = "MILLISECONDS", default_value = "200", requires = "wire", value_parser = common::milliseconds)]
        pause: Duration,
        #[command(flatten)]
        tls: ClientTls,
    },
    /// Ask a running server, or change it
    Control(common::ControlOptions),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wire {
    /// Frames, digests and answers
    Own,
    /// The wire of the tutorial's upload program (docs/guide.md): a header and the bytes, without an answer
    Document,
}

#[derive(Args)]
struct RuleOptions {
    /// The folder that files are stored in; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "model")]
    dir: PathBuf,
    /// The treatment of a file whose name is taken
    #[arg(long, value_enum, default_value_t = Conflict::Rename)]
    conflict: Conflict,
    /// The largest file, in bytes, or with K, M, G or T
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = common::bytes)]
    max_file: u64,
    /// The most bytes of all files in the folder together, or with K, M, G or T [default: as much as the disk holds]
    #[arg(long, value_name = "BYTES", value_parser = common::bytes)]
    max_total: Option<u64>,
    /// How long a client may be silent, or take for 64 KiB, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = common::seconds)]
    idle: Duration,
    #[command(flatten)]
    first_word: FirstWord,
    /// How long the part of a broken upload is kept for --resume, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "604800", value_parser = common::seconds)]
    keep: Duration,
}

/// The default of `--max-clients`. Each client may have a piece of a file in memory, which is a mebibyte: 1024 of them are a
/// gibibyte.
const CLIENTS: &str = "1024";

struct UploadServer {
    store: Arc<Store>,
    idle: Duration,
    first_word: FirstWord,
    tls: Option<Tls>,
}

impl Program for UploadServer {
    const DEFAULT_BIND: &'static str = "127.0.0.1:8000";

    fn exposure(&self) -> String {
        format!("anyone there may store files in {:?}", self.store.folder())
    }

    fn stream(&self) -> impl MakeHandler<StreamRequest> {
        let (store, idle, first_word) = (Arc::clone(&self.store), self.idle, self.first_word);
        move || Upload::new(&store, idle, first_word)
    }

    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>> {
        None::<NoDatagrams>
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn limits(&self) -> Limits {
        Limits::default().idle(self.idle).read(self.idle).write(self.idle)
    }
}

fn main() -> ExitCode {
    common::exit(match Cli::parse().command {
        Command::Control(options) => common::control(&options),
        Command::Serve { options, tls, rules } => run_server(&options, &tls, &rules),
        Command::Connect { address, files, resume, wire, pause, tls } => match wire {
            Some(Wire::Document) => document_client::send(&address, &tls, &files, pause),
            Some(Wire::Own) | None => run_client(&address, &tls, &files, resume),
        },
    })
}

fn run_server(options: &ServeOptions, tls: &ServeTls, given: &RuleOptions) -> Result<(), Failure> {
    let tls = tls.load()?;
    let (conflict, max_file, max_total) = (given.conflict, given.max_file, given.max_total);
    let rules = Rules { conflict, max_file, max_total, keep: given.keep };
    let store = Store::open(&given.dir, rules).map_err(|error| cannot_store(&given.dir, &error))?;
    store.sweep().map_err(|error| cannot_store(&given.dir, &error))?;
    for (folder, error) in store.not_counted().map_err(|error| cannot_store(&given.dir, &error))? {
        let what = "what is in it does not count for --max-total";
        common::warn(&format!("cannot look into {folder:?} in {:?}: {error}; {what}", given.dir));
    }
    let (idle, first_word) = (given.idle, given.first_word);
    common::serve(&UploadServer { store: Arc::new(store), idle, first_word, tls }, options)
}

fn cannot_store(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::Other(format!("cannot store files in {folder:?}: {error}; choose another --dir"))
}

fn run_client(
    endpoint: &Endpoint,
    tls: &ClientTls,
    files: &[PathBuf],
    resume: bool,
) -> Result<(), Failure> {
    let sources = Sources::find(files)?;
    let mut client = Client::new(open(endpoint, tls)?, endpoint, resume)?;
    let mut report = Report::new(&sources, "stored");
    for path in &sources.folders {
        match client.make_folder(path) {
            Ok(()) => report.made(path),
            Err(Trouble::Refused(refusal)) => report.not_made(path, &refusal.to_string()),
            Err(Trouble::File(why) | Trouble::Broken(why)) => {
                report.not_made(path, &why);
                return report.end();
            }
        }
    }
    for source in &sources.files {
        report.begin(&source.path);
        match client.send(source, &report) {
            Ok(Stored::As(path)) => report.stored(&source.path, &path),
            Ok(Stored::Already) => report.already(&source.path),
            Err(Trouble::Refused(refusal)) => report.failed(&source.path, &refusal.to_string()),
            Err(Trouble::File(why)) => report.failed(&source.path, &why),
            Err(Trouble::Broken(why)) => {
                let why = format!("{why}; run it again with --resume");
                report.failed(&source.path, &why);
                break;
            }
        }
    }
    report.end()
}
