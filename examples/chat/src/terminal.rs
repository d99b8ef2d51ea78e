//! Input and output. On a terminal there is line editing, and incoming lines do not tear the line that is being
//! typed. On a pipe both are plain.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::thread::JoinHandle;

use rustix::stdio::dup2_stdin;
use rustix::termios::{OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor, ExternalPrinter};

use super::suspend::Suspend;

/// A terminal, or a pipe in its place.
pub struct Terminal {
    pub input: Input,
    pub output: Output,
    /// Kept until the program ends.
    pub mode: Mode,
}

/// The input.
pub enum Input {
    Edited(Box<DefaultEditor>, Suspend),
    Plain,
}

/// The output.
pub enum Output {
    Beside(Box<dyn ExternalPrinter + Send>),
    Plain,
}

/// The original mode of the terminal. A program may end while a line is being edited, because its server stops or its
/// connection breaks: the drop restores the mode.
pub struct Mode(Option<Termios>);

/// One input of the user.
pub enum Typed {
    Line(String),
    /// A line with a byte that is not UTF-8, from a terminal with another encoding or from a paste. The editor discards
    /// the whole line.
    Unreadable,
    /// Ctrl-C, which sends no signal while a line is edited.
    Interrupt,
    /// Ctrl-D.
    End,
    /// The end of a pipe, or of a terminal that is gone.
    Closed,
}

/// The answer to an unreadable line.
pub const UNREADABLE: &str =
    "a byte of this line is not UTF-8, and nothing of the line was sent: type it again";

/// Moves the cursor up and down again: a message without a visible effect, after which the editor draws the edited
/// line again. The editor's queue holds one message, so it accepts this one only when it has shown the previous one.
pub const NOTHING: &str = "\x1b[A\n";

impl Terminal {
    /// The terminal of this process, if its input and its output are a terminal; otherwise pipes.
    pub fn open() -> Self {
        let edited = || {
            if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
                return None;
            }
            let config = Config::builder().bracketed_paste(false).auto_add_history(true).build();
            let mode = tcgetattr(io::stdin()).ok()?;
            let mut editor = DefaultEditor::with_config(config).ok()?;
            let printer = editor.create_external_printer().ok()?;
            let redraw = editor.create_external_printer().ok()?;
            let suspend = Suspend::teach(&mut editor, &mode, redraw).ok()?;
            let input = Input::Edited(editor.into(), suspend);
            let output = Output::Beside(Box::new(printer));
            Some(Self { input, output, mode: Mode(Some(mode)) })
        };
        // A terminal without line editing (TERM=dumb, say) is used as a pipe.
        edited().unwrap_or(Self { input: Input::Plain, output: Output::Plain, mode: Mode(None) })
    }
}

impl Input {
    /// Waits for the next line. On a pipe a line longer than `most` bytes is returned in parts.
    pub fn next(&mut self, most: usize) -> Typed {
        match self {
            Self::Edited(editor, suspend) => {
                match suspend.edit(|line| editor.readline_with_initial("> ", line)) {
                    Ok(line) => Typed::Line(line),
                    Err(ReadlineError::Interrupted) => Typed::Interrupt,
                    Err(ReadlineError::Eof) => Typed::End,
                    Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                        // The rest of a paste would pass for a line of its own. If the flush fails, the rest stays there.
                        let _ = tcflush(io::stdin(), QueueSelector::IFlush);
                        Typed::Unreadable
                    }
                    Err(_) => Typed::Closed,
                }
            }
            Self::Plain => {
                let mut line = Vec::new();
                let mut stdin = io::stdin().lock().take(most as u64);
                match stdin.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => Typed::Closed,
                    Ok(_) => {
                        let text = line.strip_suffix(b"\n").unwrap_or(&line);
                        Typed::Line(String::from_utf8_lossy(text).into_owned())
                    }
                }
            }
        }
    }
}

impl Output {
    /// Shows lines, each with its newline.
    pub fn show(&mut self, lines: String) -> io::Result<()> {
        match self {
            Self::Beside(printer) => printer.print(lines).map_err(io::Error::other),
            Self::Plain => {
                let mut stdout = io::stdout();
                stdout.write_all(lines.as_bytes())?;
                stdout.flush()
            }
        }
    }

    /// Shows the lines that wait, and ends the editing of a line, so that all lines are visible and the editor draws
    /// nothing over the program's last words. `typing` is the thread that reads the lines; on a pipe it is left alone.
    pub fn finish(&mut self, typing: JoinHandle<()>) {
        let Self::Beside(printer) = self else { return };
        // If the editor has ended already, there is no thread to wake and to wait for.
        let _ = printer.print(NOTHING.to_owned());
        // No call ends the editing of a line, so an empty input takes the place of the terminal. The second message wakes
        // the editor, which then reads the end of its input.
        if File::open("/dev/null").is_ok_and(|null| dup2_stdin(null).is_ok()) {
            let _ = printer.print(NOTHING.to_owned());
            let _ = typing.join();
        }
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        let Some(mode) = &self.0 else { return };
        // The mode is set on the output, because the input may be closed, and without waiting for the output, because a
        // stopped terminal never finishes it. The call fails for a terminal that is gone.
        let _ = tcsetattr(io::stdout(), OptionalActions::Now, mode);
    }
}
