//! The operator's screen: a queue, and a thread that shows its lines. If the terminal is stopped by Ctrl-S, or the pipe
//! has no reader, lines are lost, and no member is delayed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::terminal::Output;

/// The most lines in the queue: more than a screen can be scrolled back.
const WAITING_LINES: usize = 4_096;

enum Item {
    Show(String),
    /// The end. The screen's thread sends on this channel when it has shown all lines.
    End(Sender<()>),
}

/// The sender's side of the queue. Clones belong to the same screen.
#[derive(Clone)]
pub struct Screen {
    lines: Sender<Item>,
    left_out: Arc<AtomicUsize>,
}

/// The receiver's side of the queue.
pub struct Lines {
    lines: Receiver<Item>,
    left_out: Arc<AtomicUsize>,
}

impl Screen {
    pub fn new() -> (Self, Lines) {
        let (sender, lines) = bounded(WAITING_LINES);
        let left_out = Arc::default();
        (Self { lines: sender, left_out: Arc::clone(&left_out) }, Lines { lines, left_out })
    }

    /// Queues lines, each with its newline. Never waits.
    pub fn show(&self, lines: &str) {
        // Lines are also lost, and not counted, if the thread could not be started or has ended.
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Item::Show(lines.to_owned())) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines are shown, but no longer than a bound.
    pub fn finish(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let (done, shown) = bounded(1);
        if self.lines.send_timeout(Item::End(done), PATIENCE).is_ok() {
            let _ = shown.recv_timeout(PATIENCE);
        }
    }
}

impl Lines {
    /// Starts the thread that shows the lines. `typing` is the thread that reads the operator's input.
    pub fn show_on(self, mut output: Output, typing: JoinHandle<()>) -> io::Result<()> {
        let show = move || {
            let mut next = None;
            while let Some(item) = next.take().or_else(|| self.lines.recv().ok()) {
                let mut text = match item {
                    Item::Show(text) => text,
                    Item::End(done) => {
                        output.finish(typing);
                        // The send fails if `Screen::finish` has stopped waiting.
                        let _ = done.send(());
                        return;
                    }
                };
                // All queued lines leave in one write.
                for item in self.lines.try_iter().take(WAITING_LINES) {
                    match item {
                        Item::Show(line) => text += &line,
                        end @ Item::End(_) => next = Some(end),
                    }
                }
                let left_out = self.left_out.swap(0, Ordering::Relaxed);
                if left_out > 0 {
                    text += &format!("* {left_out} lines came too fast and were left out here\n");
                }
                // If stdout is closed, the server goes on without an operator.
                let _ = output.show(text);
            }
        };
        thread::Builder::new().name("screen".into()).spawn(show).map(drop)
    }
}
