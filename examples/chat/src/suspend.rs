//! Ctrl-Z and `fg`: the line editor gives the terminal back to the user's shell, and takes it again.
//!
//! The editor's own Ctrl-Z sends the signal and goes on at once. With several threads it may therefore change the
//! terminal again before the process has stopped, and it does nothing when the process goes on. So here the line is
//! saved first, and edited anew after `fg`. If another process stops this one in the middle of a line, the terminal gets
//! the editor's mode again as soon as this process is continued in the foreground.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use rustix::process::{Signal, getpgrp, kill_current_process_group};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetpgrp,
    tcsetattr,
};
use rustyline::{
    Cmd, ConditionalEventHandler, DefaultEditor, Event, EventContext, EventHandler,
    ExternalPrinter, KeyEvent, RepeatCount,
};
use signal_hook::consts::SIGCONT;
use signal_hook::low_level::pipe;

/// The state of the editor's Ctrl-Z.
pub struct Suspend {
    aside: Aside,
    /// Whether a line is being edited.
    edits: Arc<AtomicBool>,
    /// Receives a message when the process has been continued.
    continued: Receiver<()>,
}

/// The line that was being edited at Ctrl-Z, and the position of the cursor in it.
type Aside = Arc<Mutex<Option<(String, usize)>>>;

/// The key's handler, which saves the line and ends the editing. A saved line shows the caller that the key was Ctrl-Z and
/// not Ctrl-C.
struct Key(Aside);

impl ConditionalEventHandler for Key {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, line: &EventContext<'_>) -> Option<Cmd> {
        *self.0.lock() = Some((line.line().to_owned(), line.pos()));
        Some(Cmd::Interrupt)
    }
}

impl Suspend {
    /// Binds Ctrl-Z in an editor. `mode` is the terminal's original mode; `printer` makes the editor draw the line again.
    pub fn teach(
        editor: &mut DefaultEditor,
        mode: &Termios,
        mut printer: impl ExternalPrinter + Send + 'static,
    ) -> io::Result<Self> {
        let aside = Aside::default();
        editor.bind_sequence(
            KeyEvent::ctrl('z'),
            EventHandler::Conditional(Box::new(Key(Arc::clone(&aside)))),
        );
        let (mut signals, signal) = UnixStream::pair()?;
        pipe::register(SIGCONT, signal)?;
        let (tell, continued) = bounded(1);
        let edits = Arc::new(AtomicBool::new(false));
        let (edited, editing) = (as_edited(mode), Arc::clone(&edits));
        let watch = move || {
            while matches!(signals.read(&mut [0; 16]), Ok(1..)) {
                if editing.load(Ordering::SeqCst) && is_in_foreground() {
                    // The call fails for a terminal that is gone.
                    let _ = tcsetattr(io::stdin(), OptionalActions::Now, &edited);
                    let _ = printer.print(super::terminal::NOTHING.to_owned());
                }
                // If the queue is full, such a message is in it already.
                let _ = tell.try_send(());
            }
        };
        thread::Builder::new().name("continued".into()).spawn(watch)?;
        Ok(Self { aside, edits, continued })
    }

    /// Edits a line by `read`, which gets the text to begin with: that before the cursor, and that after it. At each Ctrl-Z
    /// it stops the process, and then goes on with the same line.
    pub fn edit<E>(
        &self,
        mut read: impl FnMut((&str, &str)) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut line = (String::new(), 0);
        loop {
            self.edits.store(true, Ordering::SeqCst);
            let result = read(line.0.split_at(line.1));
            self.edits.store(false, Ordering::SeqCst);
            match self.aside.lock().take() {
                Some(aside) => line = aside,
                None => return result,
            }
            self.stop();
        }
    }

    /// Stops the whole job, as the terminal itself would, until it is continued.
    fn stop(&self) {
        /// The longest wait to be continued: the kernel does not stop an orphaned process group, which no shell could
        /// continue, so the wait for a shell would not end.
        const PATIENCE: Duration = Duration::from_millis(200);
        let _ = self.continued.try_recv();
        if kill_current_process_group(Signal::TSTP).is_ok() {
            // The signal may take a moment to be delivered.
            let _ = self.continued.recv_timeout(PATIENCE);
        }
    }
}

fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// The mode in which the editor has a terminal while it edits a line.
fn as_edited(mode: &Termios) -> Termios {
    let mut mode = mode.clone();
    mode.input_modes -= InputModes::BRKINT
        | InputModes::ICRNL
        | InputModes::INPCK
        | InputModes::ISTRIP
        | InputModes::IXON;
    mode.control_modes |= ControlModes::CS8;
    mode.local_modes -=
        LocalModes::ECHO | LocalModes::ICANON | LocalModes::IEXTEN | LocalModes::ISIG;
    mode.special_codes[SpecialCodeIndex::VMIN] = 1;
    mode.special_codes[SpecialCodeIndex::VTIME] = 0;
    mode
}
