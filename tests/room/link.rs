//! A link that delays, loses and reorders frames: two taps, and a thread in between.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::chance::Chance;

/// How a link treats each frame, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// How long a frame is on its way.
    pub delay: Duration,
    /// How much earlier or later a frame may be at most; frames keep their order.
    pub jitter: Duration,
    /// How many frames of a thousand are lost.
    pub loss: u64,
    /// How many frames of a thousand overtake others.
    pub reorder: u64,
}

/// A link, until it is dropped.
#[derive(Debug)]
pub struct Link {
    weather: Arc<Mutex<Weather>>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// A frame on the way: when it is due, its number, and its bytes.
type Frame = (Reverse<(Instant, u64)>, Vec<u8>);

#[derive(Default)]
struct Way {
    frames: BinaryHeap<Frame>,
    count: u64,
    last: Option<Instant>,
}

impl Link {
    /// A link between these taps.
    pub(crate) fn between(one: OwnedFd, other: OwnedFd, weather: Weather, seed: u64) -> Self {
        let weather = Arc::new(Mutex::new(weather));
        let stop = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let stopped = stop.try_clone().expect("a descriptor");
        let shared = Arc::clone(&weather);
        let thread = std::thread::spawn(move || {
            carry(&[one, other], &stopped, &shared, &mut Chance::new(seed));
        });
        Self { weather, stop, thread: Some(thread) }
    }

    /// Changes the weather from now on. Frames that are on the way arrive as they would have.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The write fails if the thread has ended by a panic; there is nobody left to stop.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn carry(taps: &[OwnedFd; 2], stop: &OwnedFd, weather: &Mutex<Weather>, chance: &mut Chance) {
    let mut ways = [Way::default(), Way::default()];
    let mut bytes = vec![0; 65_536];
    loop {
        let due = ways.iter().filter_map(|way| way.frames.peek()).map(|(due, _)| due.0.0).min();
        let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
        let wait = wait.map(|wait| Timespec::try_from(wait).expect("a short time"));
        let mut fds = [
            PollFd::new(&taps[0], PollFlags::IN),
            PollFd::new(&taps[1], PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        if poll(&mut fds, wait.as_ref()).is_err() {
            continue;
        }
        if !fds[2].revents().is_empty() {
            return;
        }
        let now_like = *weather.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, way) in ways.iter_mut().enumerate() {
            // The number of frames is bounded, because those of the other direction are due as well.
            for _ in 0..64 {
                let Ok(count) = rustix::io::read(&taps[from], &mut bytes) else { break };
                way.take(&bytes[..count], &now_like, chance);
            }
            way.deliver(&taps[1 - from]);
        }
    }
}

impl Way {
    fn take(&mut self, frame: &[u8], weather: &Weather, chance: &mut Chance) {
        if chance.between(1, 1000) <= weather.loss {
            return;
        }
        let now = Instant::now();
        let overtakes = chance.between(1, 1000) <= weather.reorder;
        let due = if overtakes {
            now + weather.delay * 3 / 10
        } else {
            let jitter = weather.jitter.as_micros() as u64;
            let due = now + weather.delay + Duration::from_micros(chance.between(0, 2 * jitter));
            let due = due.checked_sub(weather.jitter).unwrap_or(due).max(now);
            let due = self.last.map_or(due, |last| due.max(last));
            self.last = Some(due);
            due
        };
        self.count += 1;
        self.frames.push((Reverse((due, self.count)), frame.to_vec()));
    }

    fn deliver(&mut self, to: &OwnedFd) {
        let now = Instant::now();
        while self.frames.peek().is_some_and(|(due, _)| due.0.0 <= now) {
            let (_, frame) = self.frames.pop().expect("it was looked at");
            // A tap whose interface is down takes nothing: the frame is lost, as on a wire.
            let _ = rustix::io::write(to, &frame);
        }
    }
}
