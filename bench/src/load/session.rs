//! A load that runs for a time: its operations are counted after a warm-up.

use std::io;
use std::time::{Duration, Instant};

use super::Plan;
use crate::figures::{Figure, Figures, Histogram};
use crate::interrupt;
use crate::process::Process;
use crate::usage;

/// The longest wait of a load, after which it checks whether to go on.
pub const TURN: Duration = Duration::from_millis(100);
/// A server that answers nothing for this long is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// A load that is ready to run.
pub trait Session {
    /// Waits for events once, [`TURN`] at most, handles them, and counts what they complete.
    fn turn(&mut self, tally: &mut Tally) -> io::Result<()>;
}

/// The operations of a load since the count began.
#[derive(Default)]
pub struct Tally {
    done: u64,
    /// How long each has taken, for a load that measures it.
    times: Option<Histogram>,
    /// Operations that got no answer, for a load that may lose some.
    lost: Option<u64>,
}

impl Tally {
    /// Counts operations that have no times.
    pub fn add(&mut self, operations: u64) {
        self.done += operations;
    }

    /// Counts one operation, and its time.
    pub fn add_timed(&mut self, time: Duration) {
        self.done += 1;
        self.times.get_or_insert_with(Histogram::new).record(time);
    }

    /// Counts operations that got no answer.
    pub fn lose(&mut self, operations: u64) {
        *self.lost.get_or_insert_default() += operations;
    }

    /// Sets all counts to zero, in the same memory.
    fn reset(&mut self) {
        self.done = 0;
        self.times.iter_mut().for_each(Histogram::clear);
        self.lost.iter_mut().for_each(|lost| *lost = 0);
    }

    fn add_to(&self, figures: &mut Figures) {
        if let Some(times) = &self.times {
            times.add_to(figures);
        }
        if let Some(lost) = self.lost {
            let all = self.done + lost;
            figures.insert(Figure::Lost, lost as f64 * 1e6 / all.max(1) as f64);
        }
    }
}

/// Runs a load and gives its figures.
pub fn measure(session: &mut impl Session, process: &Process, plan: Plan) -> io::Result<Figures> {
    let mut tally = Tally::default();
    run(session, &mut tally, plan.warm_up)?;
    tally.reset();
    let (cpu, begin) = (usage::cpu(process.group()), Instant::now());
    run(session, &mut tally, plan.time)?;
    let (time, cpu) = (begin.elapsed(), usage::cpu(process.group()).saturating_sub(cpu));
    let mut figures = rates(tally.done, time, cpu);
    tally.add_to(&mut figures);
    Ok(figures)
}

/// The figures of this many operations.
pub fn rates(done: u64, time: Duration, cpu: Duration) -> Figures {
    let done = done.max(1) as f64;
    let cpu = cpu.as_secs_f64() * 1e6 / done;
    [(Figure::Rate, done / time.as_secs_f64()), (Figure::Cpu, cpu)].into()
}

fn run(session: &mut impl Session, tally: &mut Tally, time: Duration) -> io::Result<()> {
    let begin = Instant::now();
    let (mut done, mut moved) = (tally.done, begin);
    loop {
        session.turn(tally)?;
        let now = Instant::now();
        if tally.done != done {
            (done, moved) = (tally.done, now);
        } else if now - moved > STUCK {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server answers no more"));
        }
        if now - begin >= time {
            return Ok(());
        }
        interrupt::check()?;
    }
}

/// The error for anything that a load does not expect, such as an early end of a connection.
pub fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
