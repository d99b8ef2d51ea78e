//! `serve`: its options, and the checks before anything is served.

use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::Endpoint;
use encoding_rs::Encoding;
use socketserver::handler::MakeHandler;
use socketserver::{DatagramRequest, Limits, StreamRequest};

use crate::handler::Shell;
use crate::penalty::Penalty;
use crate::run::Bounds;
use crate::settings::{Entry, Settings, WireName};
use crate::{EntryOptions, encoding, secret};
use common::{Failure, NoDatagrams, Places, Program, ServeOptions};

/// The options of `serve`.
#[derive(Args)]
#[command(mut_arg("bind", common::streams::<ShellServer>))]
pub struct Serve {
    #[command(flatten)]
    options: ServeOptions,
    #[command(flatten)]
    entry: EntryOptions,
    /// Allow this program and no other, by exactly this name, without a shell, but with any
    /// arguments. May be given several times
    #[arg(long, value_name = "COMMAND")]
    allow: Vec<String>,
    /// How long a command may run, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    timeout: Duration,
    /// How much a command may print, in bytes, or with K, M, G or T; with --wire document at most 16M
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = common::bytes)]
    max_output: u64,
    /// How long a login may take, in seconds, or with --wire document a first command, which a person types
    /// [default: 10, and with --wire document 600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    first_word: Option<Duration>,
    /// Turn the commands' output from UTF-8 into another encoding: gbk, or any other label that the web uses for an
    /// encoding
    #[arg(long, value_name = "LABEL", value_parser = encoding::writable_by_label)]
    encoding: Option<&'static Encoding>,
}

/// The default time limit for a login: a program sends its two messages.
const LOGIN: Duration = Duration::from_secs(10);

/// The default time limit for a first command: the tutorial's client connects before its user has typed anything.
const FIRST_COMMAND: Duration = Duration::from_secs(600);

/// Serves until Ctrl-C.
pub fn serve(options: Serve) -> Result<(), Failure> {
    options.entry.check()?;
    let bounds = Bounds {
        time: options.timeout,
        output_bytes: options.max_output,
        // The other half of the grace is for ending commands that do not end by themselves.
        after_stop: options.options.grace / 2,
    };
    let places = Places::of(&options.options)?;
    let entry = entry(&options.entry, &places.endpoints())?;
    let wire = options.entry.wire;
    let first_word = options.first_word.unwrap_or(match wire {
        WireName::Frames => LOGIN,
        WireName::Document => FIRST_COMMAND,
    });
    let Serve { allow, encoding, .. } = options;
    let settings = Settings { wire, entry, allow, encoding, bounds, first_word };
    common::serve_at(&ShellServer { settings: Arc::new(settings) }, places, &options.options)
}

/// Decides which clients may run commands, and reads or makes the secret.
fn entry(options: &EntryOptions, endpoints: &[Endpoint]) -> Result<Entry, Failure> {
    if options.no_auth {
        for endpoint in endpoints {
            check_local(endpoint)?;
        }
        let me = rustix::process::geteuid().as_raw();
        common::warn(&format!(
            "warning: --no-auth: every user of this machine who can connect may run commands as user {me}"
        ));
        return Ok(Entry::Anyone);
    }
    if endpoints.iter().all(|endpoint| !matches!(endpoint, Endpoint::Tcp(_))) {
        return Ok(Entry::Proven(None));
    }
    let secret = secret::read_or_make(&options.secret_file()?)?;
    let penalty = Penalty::start().map_err(|error| {
        Failure::Other(format!("cannot start the process that keeps failed logins: {error}"))
    })?;
    Ok(Entry::Proven(Some((secret, penalty))))
}

fn check_local(endpoint: &Endpoint) -> Result<(), Failure> {
    let Endpoint::Tcp(address) = endpoint else { return Ok(()) };
    // An address that cannot be resolved fails later in `bind`, whose message says more.
    let mut found = address.to_socket_addrs().into_iter().flatten();
    if found.any(|address| !address.ip().to_canonical().is_loopback()) {
        return Err(Failure::Usage(format!(
            "--no-auth is for this machine only, and {endpoint} can be reached from others: \
             leave it out, or bind 127.0.0.1"
        )));
    }
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let time = common::seconds(text)?;
    let year = Duration::from_secs(365 * 86_400);
    if time.is_zero() || time > year {
        return Err("it must be more than nothing and at most a year".to_owned());
    }
    Ok(time)
}

/// The program for `common::serve_at`.
pub struct ShellServer {
    settings: Arc<Settings>,
}

impl Program for ShellServer {
    const DEFAULT_BIND: &'static str = "127.0.0.1:8000";

    fn exposure(&self) -> String {
        let who = "anyone there who has the secret";
        match &self.settings.allow[..] {
            [] => format!("{who} may run any command as this user"),
            allowed => format!("{who} may run {}", allowed.join(", ")),
        }
    }

    fn stream(&self) -> impl MakeHandler<StreamRequest> {
        let settings = Arc::clone(&self.settings);
        move || Shell::new(&settings)
    }

    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>> {
        None::<NoDatagrams>
    }

    /// A user may be idle for an hour, and take ten minutes to read a page of output.
    fn limits(&self) -> Limits {
        Limits::default().idle(Duration::from_secs(3_600)).write(Duration::from_secs(600))
    }
}
