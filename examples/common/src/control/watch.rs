//! `PROGRAM control PATH watch`: the panel on a terminal, until `q`; elsewhere its text, once.

use std::io::{self, IsTerminal, Read};

use rustix::event::{PollFd, PollFlags, poll};

use super::client::ControlSocket;
use super::panel::Panel;
use super::terminal::{Signals, Terminal};
use crate::Failure;
use crate::client::show;

/// Watches a program. `command` is `watch` with its words.
pub(super) fn watch(socket: &mut ControlSocket, command: &str) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        let panel = Panel::read(&socket.ask_well("status")?);
        let lines = panel.lines(usize::MAX);
        let text: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
        return show(text.as_bytes());
    }
    let mut panel = Panel::read(&socket.ask_well(command)?);
    let signals = Signals::take()
        .map_err(|error| Failure::Other(format!("cannot handle signals: {error}")))?;
    let mut terminal = Terminal::enter()?;
    let mut reads_keys = io::stdin().is_terminal();
    loop {
        Terminal::draw(|height| panel.lines(height), "q ends")?;
        let ready = if socket.has_buffered() {
            Ready { socket: true, ..Ready::default() }
        } else {
            wait(socket, &signals, reads_keys)?
        };
        if ready.ends || (ready.key && is_last_key(&mut reads_keys)) {
            return Ok(());
        }
        if ready.stops {
            empty(&signals.stops);
            terminal.stop()?;
        }
        if ready.redraws {
            empty(&signals.redraws);
        }
        if ready.socket {
            panel = Panel::read(&socket.receive_well()?);
        }
    }
}

/// The inputs that have something to be read.
#[derive(Clone, Copy, Default)]
struct Ready {
    socket: bool,
    key: bool,
    ends: bool,
    stops: bool,
    redraws: bool,
}

fn wait(socket: &ControlSocket, signals: &Signals, reads_keys: bool) -> Result<Ready, Failure> {
    let stdin = io::stdin();
    let input = PollFlags::IN;
    let keys = if reads_keys { input } else { PollFlags::empty() };
    let mut fds = [
        PollFd::new(socket.stream(), input),
        PollFd::new(&stdin, keys),
        PollFd::new(&signals.ends, input),
        PollFd::new(&signals.stops, input),
        PollFd::new(&signals.redraws, input),
    ];
    match poll(&mut fds, None) {
        Ok(_) => {}
        // A signal: its socket is readable.
        Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(io::Error::from(error).into()),
    }
    let [socket, key, ends, stops, redraws] = fds.map(|fd| !fd.revents().is_empty());
    Ok(Ready { socket, key: key && reads_keys, ends, stops, redraws })
}

/// Reads keys. True if one of them ends the panel. A terminal that is gone has no more keys.
fn is_last_key(reads_keys: &mut bool) -> bool {
    let mut keys = [0; 64];
    match io::stdin().lock().read(&mut keys) {
        Ok(0) | Err(_) => {
            *reads_keys = false;
            false
        }
        // Ctrl-D is a key as well while lines are not edited.
        Ok(count) => keys[..count].iter().any(|key| matches!(key, b'q' | b'Q' | 4)),
    }
}

fn empty(mut signals: &std::os::unix::net::UnixStream) {
    while matches!(signals.read(&mut [0; 64]), Ok(1..)) {}
}
