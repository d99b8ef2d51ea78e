//! The cases. Each has a fault or a few, through which the promise must be kept.

mod catching_up;
mod drawn;
mod names;
mod partitions;
mod private;
mod redis;
mod servers;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use room::members::State;
use room::needs::{self, Missing};

/// A case: its name and its body.
#[derive(Clone, Copy)]
struct Case(&'static str, fn());

/// The server's own lines that a member has heard.
fn news_of(state: &State, member: usize) -> impl Iterator<Item = &str> {
    state.members[member].news.iter().map(|(_, line)| &**line)
}

/// How many cases run at once: they wait most of the time.
const AT_ONCE: usize = 6;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let cases = [
        partitions::CASES,
        redis::CASES,
        servers::CASES,
        private::CASES,
        names::CASES,
        catching_up::CASES,
        drawn::CASES,
    ]
    .concat();
    if !arguments.list {
        match needs::missing() {
            Some(Missing::Package(why)) => {
                test_support::skip(why);
                return ExitCode::SUCCESS;
            }
            // No package would help.
            Some(Missing::Right(why)) => {
                println!("skipped: {why}");
                return ExitCode::SUCCESS;
            }
            None => drop(needs::chat()),
        }
    }
    let trial = |Case(name, run): Case| {
        let run = move || {
            run();
            Ok::<(), Failed>(())
        };
        Trial::test(name, run)
    };
    libtest_mimic::run(&arguments, cases.into_iter().map(trial).collect()).exit_code()
}
