//! What the operator sees: a queue, and a thread that shows what is in it. A terminal that has been
//! stopped by Ctrl-S, or a pipe that nobody reads, costs the operator lines and delays no member.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::terminal::Output;

/// Lines that wait to be shown at most: more than a screen can be scrolled back.
const WAITING_LINES: usize = 4_096;

/// A way to the operator's screen. Clones are ways to the same one.
#[derive(Clone)]
pub struct Screen {
    lines: Sender<String>,
    left_out: Arc<AtomicUsize>,
}

/// What has been sent to the screen, until somebody shows it.
pub struct Lines {
    lines: Receiver<String>,
    left_out: Arc<AtomicUsize>,
}

impl Screen {
    pub fn new() -> (Self, Lines) {
        let (sender, lines) = bounded(WAITING_LINES);
        let left_out = Arc::default();
        (Self { lines: sender, left_out: Arc::clone(&left_out) }, Lines { lines, left_out })
    }

    /// Has lines shown, each with its newline. Never waits.
    pub fn show(&self, lines: &str) {
        // Nobody shows them any more where there is no screen.
        if let Err(TrySendError::Full(_)) = self.lines.try_send(lines.to_owned()) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Lines {
    /// Shows what comes, in a thread of its own.
    pub fn show_on(self, mut output: Output) -> io::Result<()> {
        let show = move || {
            while let Ok(mut text) = self.lines.recv() {
                // What is there already goes in one write.
                self.lines.try_iter().take(WAITING_LINES).for_each(|line| text += &line);
                let left_out = self.left_out.swap(0, Ordering::Relaxed);
                if left_out > 0 {
                    text += &format!("* {left_out} lines came too fast and were left out here\n");
                }
                if output.show(text).is_err() {
                    // A closed stdout: a server without an operator goes on serving.
                    return;
                }
            }
        };
        thread::Builder::new().name("screen".into()).spawn(show).map(drop)
    }
}
