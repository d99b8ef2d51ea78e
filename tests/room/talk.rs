//! Members that talk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::members::Members;

/// How much is said, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// The most lines that each member says.
    pub lines: usize,
    /// About how many lines a second each member says.
    pub per_second: f64,
    /// How many bytes of a line follow its number.
    pub bytes: usize,
}

impl Talk {
    /// At most this many short lines of each member, at about this pace.
    pub fn new(lines: usize, per_second: f64) -> Self {
        Self { lines, per_second, bytes: 0 }
    }

    /// Lets these members talk, all at once. Returns when all is said.
    pub fn say(self, members: &Members, who: &[usize]) {
        self.until(members, who, &AtomicBool::new(false));
    }

    /// Lets these members talk while something else happens.
    pub fn start(self, members: &Arc<Members>, who: &[usize]) -> Talking {
        let (members, who) = (Arc::clone(members), who.to_vec());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || self.until(&members, &who, &stopped));
        Talking { stop, thread: Some(thread) }
    }

    fn until(self, members: &Members, who: &[usize], stop: &AtomicBool) {
        let mut chance = Chance::new(who.len() as u64);
        let pause = |chance: &mut Chance| {
            Duration::from_secs_f64(chance.between(300, 1700) as f64 / 1000.0 / self.per_second)
        };
        let begin = Instant::now();
        let mut next: Vec<(Instant, usize)> = Vec::new();
        next.extend(who.iter().map(|_| (begin + pause(&mut chance), self.lines)));
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            for (turn, member) in next.iter_mut().zip(who) {
                while turn.0 <= now && turn.1 > 0 {
                    turn.1 -= 1;
                    turn.0 += pause(&mut chance);
                    if !members.say(*member, self.bytes) {
                        turn.1 = 0;
                    }
                }
            }
            let due = next.iter().filter(|(_, left)| *left > 0).map(|(when, _)| *when).min();
            let Some(due) = due else { return };
            // A slow speaker is stopped soon, too.
            let wait = due.saturating_duration_since(Instant::now());
            std::thread::sleep(wait.min(Duration::from_millis(50)));
        }
    }
}

/// Members that talk while something else happens.
#[derive(Debug)]
pub struct Talking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talking {
    /// Stops the talk.
    pub fn stop(self) {
        drop(self);
    }

    /// Waits until the members have said all their lines.
    pub fn finish(mut self) {
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()), "the talk has panicked");
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
