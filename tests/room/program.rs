//! Random faults, and crowds: see the library's page.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use room::crowd::{self, Crowd};
use room::needs::{self, Missing};
use room::{far, measure, rounds};

const USAGE: &str = "usage: room --seed N [--minutes M] [--at-once K]
       room --crowd MEMBERS [--servers N] [--mixin WORD] [--from PACE] [--to FILE]
       room --far yes [--to FILE]

--seed N           rounds of random faults from this seed on: N, N+1 ..; without --minutes this one alone
--minutes M        for so long; then it ends with status 1 if the promise was not kept in some round
--at-once K        rounds at the same time [default: 3]
--crowd MEMBERS    how many lines a second so many members can hear, over --servers [default: 4]
--from PACE        the first pace, in lines a second; it is doubled until the room does not keep up [default: 5]
--far yes          how late lines are when Redis is 50 to 400 ms away
--mixin WORD       of the servers [default: threading]
--to FILE          the page whose section is written [default: bench/RESULTS-room.md]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let run = match Options::read(&words) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(Missing::Package(why) | Missing::Right(why)) = needs::missing() {
        println!("skipped: {why}");
        return ExitCode::SUCCESS;
    }
    needs::chat();
    let (heading, text) = match &run.measures {
        None => return play(&run),
        Some(Measures::Crowd(members)) => {
            let (servers, mixin, from) = (run.servers, run.mixin.clone(), run.from);
            crowd::measure(&Crowd { members: *members, servers, mixin, from })
        }
        Some(Measures::Far) => far::measure(),
    };
    println!("## {heading}\n\n{text}");
    match measure::put(&run.to, &heading, &text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", run.to);
            ExitCode::FAILURE
        }
    }
}

enum Measures {
    Crowd(usize),
    Far,
}

struct Options {
    seed: u64,
    time: Option<Duration>,
    at_once: usize,
    measures: Option<Measures>,
    from: usize,
    servers: usize,
    mixin: String,
    to: String,
}

impl Options {
    fn read(words: &[String]) -> Result<Self, String> {
        let mut options = Self {
            seed: 1,
            time: None,
            at_once: 3,
            measures: None,
            from: 5,
            servers: 4,
            mixin: "threading".into(),
            to: concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/RESULTS-room.md").into(),
        };
        let mut has_task = false;
        for pair in words.chunks(2) {
            let [option, value] = pair else { return Err(format!("{} needs a value", pair[0])) };
            let number =
                || value.parse::<u64>().map_err(|error| format!("{option} {value}: {error}"));
            has_task |= ["--seed", "--crowd", "--far"].contains(&&**option);
            match &**option {
                "--seed" => options.seed = number()?,
                "--minutes" => options.time = Some(Duration::from_secs(60 * number()?)),
                "--at-once" => options.at_once = number()?.max(1) as usize,
                "--crowd" => options.measures = Some(Measures::Crowd(number()?.max(1) as usize)),
                "--far" => options.measures = Some(Measures::Far),
                "--from" => options.from = number()?.max(1) as usize,
                "--servers" => options.servers = number()?.clamp(1, 9) as usize,
                "--mixin" => options.mixin.clone_from(value),
                "--to" => options.to.clone_from(value),
                _ => return Err(format!("there is no {option}")),
            }
        }
        if has_task { Ok(options) } else { Err("--seed, --crowd or --far says what to do".into()) }
    }
}

/// Plays rounds until the time is over.
fn play(options: &Options) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(options.seed);
    let (rounds, lines, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    // The report has all that a panic says.
    std::panic::set_hook(Box::new(|_| {}));
    let at_once = if options.time.is_some() { options.at_once } else { 1 };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while options.time.is_none_or(|time| began.elapsed() < time) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    rounds.fetch_add(1, Ordering::Relaxed);
                    match rounds::play(seed) {
                        Ok(tally) => {
                            lines.fetch_add(tally.expected, Ordering::Relaxed);
                            println!("seed {seed}: kept: {tally}");
                        }
                        Err(report) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            println!("NOT KEPT: {report}");
                        }
                    }
                    if options.time.is_none() {
                        return;
                    }
                }
            });
        }
    });
    let [rounds, lines, failed] = [rounds, lines, failed].map(AtomicUsize::into_inner);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!(
        "{rounds} rounds in {minutes:.1} minutes, {lines} lines times members: {failed} not kept"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
