//! The cases: one fault each, or a few, and the promise.

mod catching_up;
mod partitions;
mod private;
mod redis;
mod servers;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use room::members::State;
use room::needs::{self, Missing};

/// A case: its name, its body, and a reason if it is known to fail.
#[derive(Clone, Copy)]
struct Case(&'static str, fn(), Option<&'static str>);

/// For a case that has to hold.
const NO: Option<&str> = None;
/// For a case that waits for lines to be acknowledged by each server.
const NEW_BUS: Option<&str> = Some("lines are not acknowledged from end to end yet");

/// The server's own lines that a member has heard.
fn news_of(state: &State, member: usize) -> impl Iterator<Item = &str> {
    state.members[member].news.iter().map(|(_, line)| &**line)
}

/// Cases at once: they wait most of the time.
const AT_ONCE: usize = 6;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let cases =
        [partitions::CASES, redis::CASES, servers::CASES, private::CASES, catching_up::CASES]
            .concat();
    if !arguments.list {
        match needs::missing() {
            Some(Missing::Package(why)) => {
                test_support::skip(why);
                return ExitCode::SUCCESS;
            }
            // No package helps.
            Some(Missing::Right(why)) => {
                println!("skipped: {why}");
                return ExitCode::SUCCESS;
            }
            None => drop(needs::chat()),
        }
    }
    let trial = |Case(name, run, fails): Case| {
        let run = move || {
            run();
            Ok::<(), Failed>(())
        };
        Trial::test(name, run).with_ignored_flag(fails.is_some())
    };
    libtest_mimic::run(&arguments, cases.into_iter().map(trial).collect()).exit_code()
}
