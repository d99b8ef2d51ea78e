//! Forking servers, each in a process of its own that has one thread: this program without arguments is the
//! test run, and with `serve` it is the server.

mod ends;
mod forked;
mod inherited;
mod kin;
mod matrix;
#[path = "../support/passed.rs"]
mod passed;
mod rows;
mod server;
mod support;
mod system;
mod unwatched;
mod wrapped;

use libtest_mimic::{Arguments, Trial};

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return server::main(&arguments[1..]);
    }
    // Whoever runs the tests in the background has SIGINT ignored, and that is inherited.
    system::take_signals_as_usual();
    let trial = |(name, test): (&'static str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let tests = rows::all()
        .into_iter()
        .chain(matrix::all())
        .chain(ends::all())
        .chain(unwatched::all())
        .chain(forked::all())
        .chain(kin::all())
        .chain(wrapped::all())
        .chain(inherited::all());
    let trials = tests.map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
