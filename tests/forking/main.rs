//! Forking servers, each in a process of its own that has one thread: this program without arguments is the
//! test run, and with `serve` it is the server.

/// The list of a file's tests, from which the harness takes them. The compiler complains about a test that is in no list.
macro_rules! tests {
    ($($name:ident,)*) => {
        pub fn all() -> Vec<(&'static str, fn())> {
            vec![$((stringify!($name), $name as fn()),)*]
        }
    };
}

/// Prints a line on stderr by one write, because several processes write to the same place. (`eprintln!` writes each part of
/// the line by itself.)
macro_rules! say {
    ($($text:tt)*) => {{
        let line = format!($($text)*) + "\n";
        let _ = ::std::io::Write::write_all(&mut ::std::io::stderr(), line.as_bytes());
    }};
}

mod children;
#[cfg(feature = "tls")]
#[path = "../it/tls/client.rs"]
mod client;
#[cfg(feature = "tls")]
mod encrypted;
mod ends;
mod forked;
mod hooks;
mod inherited;
mod kin;
mod matrix;
mod obey;
mod proxied;
mod reported;
mod rows;
mod server;
mod stopping;
mod support;
mod system;
#[cfg(all(feature = "metrics", feature = "tracing"))]
mod traced;
mod unwatched;
mod wrapped;

use libtest_mimic::{Arguments, Trial};

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return server::main(&arguments[1..]);
    }
    // Tests that run in the background inherit an ignored SIGINT.
    system::take_signals_as_usual();
    let trial = |(name, test): (&'static str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let tests = [
        rows::all(),
        children::all(),
        stopping::all(),
        proxied::all(),
        reported::all(),
        matrix::all(),
        #[cfg(feature = "tls")]
        encrypted::all(),
        ends::all(),
        unwatched::all(),
        forked::all(),
        kin::all(),
        wrapped::all(),
        inherited::all(),
        #[cfg(all(feature = "metrics", feature = "tracing"))]
        traced::all(),
    ];
    let trials = tests.into_iter().flatten().map(trial);
    #[cfg(feature = "tls")]
    let trials = trials.chain(encrypted::rows_again().map(|(name, test)| {
        Trial::test(format!("{name}_under_tls"), move || {
            support::under_tls(test);
            Ok(())
        })
    }));
    let trials = trials.collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
