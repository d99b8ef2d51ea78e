//! The terminal of the panel, which has a screen of its own; the terminal is given back however the program ends.

use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::low_level::{emulate_default_handler, pipe};

use super::panel::{Line, Tone};
use crate::Failure;

/// The terminal while it shows the panel. A drop of this value gives the terminal back.
pub(super) struct Terminal {
    /// The mode of stdin before the panel, if stdin is a terminal. The panel switches the echo off, so that keys leave
    /// no text on the screen.
    input: Option<Termios>,
    shown: bool,
}

/// Switches to another screen, hides the cursor, and cuts long lines instead of wrapping them.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

impl Terminal {
    pub(super) fn enter() -> Result<Self, Failure> {
        let input = if io::stdin().is_terminal() { tcgetattr(io::stdin()).ok() } else { None };
        let mut terminal = Self { input, shown: false };
        terminal.show()?;
        Ok(terminal)
    }

    fn show(&mut self) -> Result<(), Failure> {
        self.shown = true;
        if let Some(mode) = &self.input {
            let mut mode = mode.clone();
            // Ctrl-C and Ctrl-Z stay signals.
            mode.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
            // An error is ignored: it means that the terminal is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &mode);
        }
        write(ENTER)
    }

    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write(LEAVE);
            if let Some(mode) = &self.input {
                let _ = tcsetattr(io::stdin(), OptionalActions::Now, mode);
            }
        }
    }

    /// The terminal's rows and columns, as they are now.
    fn size() -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            // Some terminals do not know their size.
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                (usize::from(size.ws_row), usize::from(size.ws_col))
            }
            _ => (24, 80),
        }
    }

    /// Replaces the contents of the screen. `of` gets the number of rows without the last one, and makes the lines for
    /// them; `below` is the last row.
    pub(super) fn draw(of: impl FnOnce(usize) -> Vec<Line>, below: &str) -> Result<(), Failure> {
        let (rows, columns) = Self::size();
        let colours = crate::variable("NO_COLOR").is_none();
        let mut text = "\x1b[H".to_owned();
        for Line { tone, text: line } in of(rows.saturating_sub(1)) {
            let line: String = line.chars().take(columns).collect();
            let (on, line) = match tone {
                Tone::Plain => ("", line),
                Tone::Bold => ("\x1b[1m", line),
                Tone::Reversed => ("\x1b[7m", format!("{line:<columns$}")),
                Tone::Alarm if colours => ("\x1b[1;31m", line),
                Tone::Alarm => ("\x1b[1m", line),
            };
            text += &format!("{on}{line}\x1b[0m\x1b[K\r\n");
        }
        let below: String = below.chars().take(columns).collect();
        text += &format!("\x1b[J\x1b[{rows};1H\x1b[2m{below}\x1b[0m\x1b[K");
        write(&text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::of_stdout(&error))
}

/// The signals that a program on a terminal gets. Each makes the socket of its kind readable.
pub(super) struct Signals {
    pub(super) ends: UnixStream,
    pub(super) stops: UnixStream,
    pub(super) redraws: UnixStream,
}

impl Signals {
    pub(super) fn take() -> io::Result<Self> {
        let on = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                pipe::register(*signal, write.try_clone()?)?;
            }
            Ok::<_, io::Error>(read)
        };
        Ok(Self {
            ends: on(&[SIGINT, SIGTERM, SIGHUP])?,
            stops: on(&[SIGTSTP])?,
            redraws: on(&[SIGWINCH, SIGCONT])?,
        })
    }
}

impl Terminal {
    /// Gives the terminal to the shell until the program is continued.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        self.leave();
        // An error is ignored: the kernel does not stop a process group that no shell could continue.
        let _ = emulate_default_handler(SIGTSTP);
        self.show()
    }
}
