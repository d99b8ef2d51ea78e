//! Measures `socketserver`'s servers beside their peers. See README.md.

mod figures;
mod gates;
mod interrupt;
mod load;
mod peer;
mod plot;
mod process;
mod report;
mod run;
mod servers;
mod sys;
mod tls;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures socketserver's servers beside their peers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and print the tables
    Run(run::Options),
    /// Be one of the peers, until killed
    Peer {
        /// The peer to be
        peer: peer::Peer,
        /// The server's mode
        mode: peer::Mode,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Peer { peer, mode } => peer::serve(peer, mode).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
