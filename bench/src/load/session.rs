//! A load that runs for a time: warmed up, then counted from one moment to another.

use std::io;
use std::time::{Duration, Instant};

use super::Plan;
use crate::figures::{Figure, Figures};
use crate::interrupt;
use crate::process::Process;
use crate::usage;

/// A wait of a load, at most: so often it looks whether to go on.
pub const TURN: Duration = Duration::from_millis(100);
/// A server that answers nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// A load that is ready to run.
pub trait Session {
    /// Waits for events once, [`TURN`] at most, and handles them.
    fn turn(&mut self) -> io::Result<()>;

    /// Operations so far.
    fn done(&self) -> u64;

    /// Resets the counts other than operations.
    fn reset(&mut self) {}

    /// The counts other than operations.
    fn report(&self, figures: &mut Figures) {
        let _ = figures;
    }
}

/// Runs a load and gives its figures.
pub fn measure(session: &mut impl Session, process: &Process, plan: Plan) -> io::Result<Figures> {
    run(session, plan.warm_up)?;
    session.reset();
    let (done, cpu, begin) = (session.done(), usage::cpu(process.group()), Instant::now());
    run(session, plan.time)?;
    let (time, cpu) = (begin.elapsed(), usage::cpu(process.group()).saturating_sub(cpu));
    let mut figures = rates(session.done() - done, time, cpu);
    session.report(&mut figures);
    Ok(figures)
}

/// The figures of so many operations.
pub fn rates(done: u64, time: Duration, cpu: Duration) -> Figures {
    let done = done.max(1) as f64;
    let cpu = cpu.as_secs_f64() * 1e6 / done;
    [(Figure::Rate, done / time.as_secs_f64()), (Figure::Cpu, cpu)].into()
}

fn run(session: &mut impl Session, time: Duration) -> io::Result<()> {
    let begin = Instant::now();
    let (mut done, mut moved) = (session.done(), begin);
    loop {
        session.turn()?;
        let now = Instant::now();
        if session.done() != done {
            (done, moved) = (session.done(), now);
        } else if now - moved > STUCK {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server answers no more"));
        }
        if now - begin >= time {
            return Ok(());
        }
        interrupt::check()?;
    }
}

/// An end, or bytes, that a server should not have sent.
pub fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
