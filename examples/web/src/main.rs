//! Web: a small HTTP/1.1 server. It greets, or it serves the files of a folder.
//!
//! ```text
//! cargo run --release --bin web -- serve
//! curl -i http://127.0.0.1:8080/
//! cargo run --release --bin web -- serve --dir . --log
//! ```
//!
//! Its clients are curl, browsers, and other programs that speak HTTP/1.1 or HTTP/1.0. Requests that arrive
//! together are answered together, by one send. A body is read and discarded, up to 64 KiB.
//!
//! Under `inline`, `pool` and `forking` (which serves 40 clients at once) an idle connection keeps others waiting, so
//! the default of `--idle-timeout` is a second there.
//!
//! A file's type depends on its name, and for text on its first kilobyte: source files and texts without a known name are
//! shown as text, and a page that declares its charset keeps it. `--dir` is looked up for each request, so that it may be a
//! symbolic link that changes.
//!
//! Limits: GET and HEAD; one range of a file at a time; no compression, no virtual hosts (`Host` has to be there, as
//! HTTP/1.1 demands, and its value is ignored). Names that begin with a dot are served only with `--dot-files`. A
//! listing has 100 pages of 1,000 entries. The listings that wait to be sent may take 64 MiB together, and those of one
//! address a quarter of that; a request beyond that is answered with 503. `--dir` needs Linux.

mod answer;
mod budget;
mod conditions;
mod files;
mod folder;
mod handler;
mod health;
mod listing;
mod media;
mod protocol;
mod self_signed;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use budget::Budget;
use clap::{Args, Parser, Subcommand};
use common::{Endpoint, Failure, NoDatagrams, Places, Program, ServeOptions, ServeTls};
use folder::Folder;
use handler::{Site, Web};
use self_signed::SelfSigned;
use socketserver::handler::MakeHandler;
use socketserver::tls::Tls;
use socketserver::{DatagramRequest, Limits, StreamRequest};
use status::Readers;

/// A small HTTP/1.1 server: it greets, or it serves the files of a folder.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until Ctrl-C
    Serve(Box<Serve>),
    /// Ask a running server, or change it
    Control(common::ControlOptions),
}

#[derive(Args)]
#[command(mut_arg("bind", common::streams::<WebServer>))]
struct Serve {
    #[command(flatten)]
    options: ServeOptions,
    #[command(flatten)]
    tls: ServeTls,
    /// Talk TLS with a certificate that is made for this run, for a try; the first lines say how to use it
    #[arg(long, conflicts_with = "tls_cert")]
    tls_self_signed: bool,
    /// The folder whose files are served; without it every path is answered with `Hello, World`
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Serve and list names that begin with a dot as well (.git, .env); .well-known is served in any case
    #[arg(long, requires = "dir")]
    dot_files: bool,
    /// How long a request may take to arrive, in seconds; the first one, counted from the connection's start
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = up_to_a_day)]
    header_timeout: Duration,
    /// How long a client may accept nothing of its answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = up_to_a_day)]
    send_timeout: Duration,
    /// How long a connection may be silent between two requests, in seconds [default: 60, and 1 under
    /// inline, pool and forking, where it keeps others waiting]
    #[arg(long, value_name = "SECONDS", value_parser = common::seconds)]
    idle_timeout: Option<Duration>,
    /// Answer /healthz (it answers) and /readyz (it is ready; 503 from the beginning of --lame-duck on), for balancers
    #[arg(long)]
    health: bool,
    /// Show this server's figures at /status and /status.json: to the clients of this machine, or with =all to all
    #[arg(long, value_name = "WHO", value_enum, num_args = 0..=1, require_equals = true,
        default_missing_value = "local")]
    status: Option<Readers>,
    /// Write a line for each request to stdout
    #[arg(long)]
    log: bool,
}

/// Reads a time of at most a day: a longer one is as good as no limit, and some clocks cannot count so far.
fn up_to_a_day(text: &str) -> Result<Duration, String> {
    let time = common::seconds(text)?;
    let day = Duration::from_secs(86_400);
    if time > day { Err("it must be at most a day, 86400".to_owned()) } else { Ok(time) }
}

struct WebServer {
    site: Arc<Site>,
    tls: Option<Tls>,
    /// The certificate that was made for this run.
    self_signed: Option<SelfSigned>,
    idle: Duration,
    write: Duration,
}

impl Program for WebServer {
    const DEFAULT_BIND: &'static str = "127.0.0.1:8080";

    fn exposure(&self) -> String {
        match &self.site.folder {
            Some(folder) => {
                format!("anyone there may read all files in {}", folder.path().display())
            }
            None => "anyone there may be greeted".to_owned(),
        }
    }

    fn stream(&self) -> impl MakeHandler<StreamRequest> {
        let site = Arc::clone(&self.site);
        move || Web::new(&site)
    }

    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>> {
        None::<NoDatagrams>
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn address(&self, at: &Endpoint) -> String {
        let text = match (at, &self.tls) {
            (_, None) => return at.to_string(),
            (Endpoint::Tcp(address), Some(_)) => format!("https://{address}"),
            (_, Some(_)) => format!("{at} with TLS"),
        };
        match &self.self_signed {
            Some(made) => format!("{text}\n{}", made.advice(&text)),
            None => text,
        }
    }

    fn limits(&self) -> Limits {
        Limits::default().idle(self.idle).write(self.write)
    }
}

fn main() -> ExitCode {
    common::exit(match Cli::parse().command {
        Command::Serve(options) => serve(*options),
        Command::Control(options) => common::control(&options),
    })
}

fn serve(serve: Serve) -> Result<(), Failure> {
    let Serve { dir, dot_files, header_timeout, send_timeout, health, status, log, .. } = serve;
    let (options, idle_timeout) = (serve.options, serve.idle_timeout);
    let places = Places::of(&options)?;
    let endpoints = places.endpoints();
    let self_signed = serve.tls_self_signed.then(|| SelfSigned::make(&endpoints)).transpose()?;
    let tls = match &self_signed {
        Some(made) => Some(made.tls()?),
        None => serve.tls.load()?,
    };
    // Where an idle connection occupies one of few workers, it ends soon.
    let has_many_workers = options.mixin.is_unbounded();
    let usual = Duration::from_secs(if has_many_workers { 60 } else { 1 });
    let idle = idle_timeout.unwrap_or(usual);
    let folder = dir.map(|dir| {
        Folder::new(&dir, dot_files).map_err(|error| {
            let text = format!(
                "cannot serve {}: {error}; give --dir a folder that you may read",
                dir.display()
            );
            Failure::Other(text)
        })
    });
    let folder = folder.transpose()?;
    let first_timeout = Some(header_timeout).filter(|time| *time < idle);
    let listings = Budget::default();
    let site =
        Arc::new(Site { folder, header_timeout, first_timeout, listings, health, status, log });
    let server = WebServer { site, tls, self_signed, idle, write: send_timeout };
    common::serve_at(&server, places, &options)
}
