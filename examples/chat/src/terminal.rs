//! What is typed and what is shown: with line editing on a terminal, where lines that come in do not
//! tear the one that is being typed, and plainly on a pipe.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::thread::JoinHandle;

use rustix::stdio::dup2_stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor, ExternalPrinter};

use super::suspend::Suspend;

/// A terminal, or what stands in for one.
pub struct Terminal {
    pub input: Input,
    pub output: Output,
    /// To be kept until the program ends.
    pub mode: Mode,
}

/// Where lines are typed.
pub enum Input {
    Edited(Box<DefaultEditor>, Suspend),
    Plain,
}

/// Where lines are shown.
pub enum Output {
    Beside(Box<dyn ExternalPrinter + Send>),
    Plain,
}

/// The mode of the terminal before anybody typed. A program may end while a line is being edited,
/// because its server stops or its connection breaks: the drop gives the terminal back as it was.
pub struct Mode(Option<Termios>);

/// What somebody has typed.
pub enum Typed {
    Line(String),
    /// Ctrl-C, which is a key like others while a line is edited.
    Interrupt,
    /// Ctrl-D.
    End,
    /// There is nobody any more: the end of a pipe, or a terminal that is gone.
    Closed,
}

/// Moves a line up and down again: shown, it leaves everything as it was, and has the edited line drawn again. The editor
/// has room for one message, so that another one is taken when it is done with what came before.
pub const NOTHING: &str = "\x1b[A\n";

impl Terminal {
    /// The terminal of this process, if its input and its output both are one.
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
        // A terminal that cannot be handled (TERM=dumb, say) is as good as a pipe.
        edited().unwrap_or(Self { input: Input::Plain, output: Output::Plain, mode: Mode(None) })
    }
}

impl Input {
    /// Waits for the next line. `most`: bytes that one may have on a pipe; a longer one comes in parts.
    pub fn next(&mut self, most: usize) -> Typed {
        match self {
            Self::Edited(editor, suspend) => {
                match suspend.edit(|line| editor.readline_with_initial("> ", line)) {
                    Ok(line) => Typed::Line(line),
                    Err(ReadlineError::Interrupted) => Typed::Interrupt,
                    Err(ReadlineError::Eof) => Typed::End,
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

    /// Shows what has been given to it, and ends the editing of a line, so that whoever typed sees all that
    /// was said to him, and nothing is drawn over what the program says at its end. `typing` is the thread
    /// that reads the lines; on a pipe it is left alone.
    pub fn finish(&mut self, typing: JoinHandle<()>) {
        let Self::Beside(printer) = self else { return };
        // Where the editor has ended already there is nothing to wake and nothing to wait for.
        let _ = printer.print(NOTHING.to_owned());
        // There is no call that ends an edited line; its input is at its end instead. The second message has
        // the editor look at it.
        if File::open("/dev/null").is_ok_and(|null| dup2_stdin(null).is_ok()) {
            let _ = printer.print(NOTHING.to_owned());
            let _ = typing.join();
        }
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        let Some(mode) = &self.0 else { return };
        // By its output, because the input may be closed; and now, because one that is stopped never comes to
        // have shown everything. A terminal that is gone needs no mode.
        let _ = tcsetattr(io::stdout(), OptionalActions::Now, mode);
    }
}
