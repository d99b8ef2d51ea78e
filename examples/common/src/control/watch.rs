//! `PROGRAM control PATH watch`: the panel on a terminal, until `q`; elsewhere its text, once.
//!
//! The panel follows the program from process to process. A search for the next process begins when the figures name a successor,
//! when the connection ends, or when the figures are late by [`SILENCE`], as those of a forking server that stops. The
//! search connects to the path again and again, and asks for the figures, while the last ones stay on the screen. If another
//! process answers, its figures are shown, and the last row says so. If none answers within [`PATIENCE`], the panel goes on
//! with the process that it has, or ends if that process has ended.

use std::io::{self, IsTerminal, Read};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::client::ControlSocket;
use super::panel::Panel;
use super::terminal::{Signals, Terminal};
use crate::Failure;
use crate::client::show;

/// How long a search for another process lasts: a restart takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How late figures may be before a search begins.
const SILENCE: Duration = Duration::from_secs(2);

/// The time between two attempts of a search.
const AGAIN: Duration = Duration::from_millis(100);

/// Watches a program. `command` is `watch` with its words.
pub(super) fn watch(mut socket: ControlSocket, command: &str) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        let panel = Panel::read(&socket.ask_well("status")?);
        let lines = panel.lines(usize::MAX);
        let text: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
        return show(text.as_bytes());
    }
    let panel = Panel::read(&socket.ask_well(command)?);
    // The program has accepted the command, so its interval is valid.
    let seconds = command.split_whitespace().nth(1).unwrap_or("1");
    let every = crate::seconds(seconds).unwrap_or(Duration::from_secs(1));
    let signals = Signals::take()
        .map_err(|error| Failure::Other(format!("cannot handle signals: {error}")))?;
    let mut watched = Watched {
        socket,
        panel,
        command,
        late_after: every + SILENCE,
        heard: Instant::now(),
        said: String::new(),
        search: None,
        gave_up: false,
    };
    let mut terminal = Terminal::enter()?;
    let mut reads_keys = io::stdin().is_terminal();
    loop {
        Terminal::draw(|height| watched.panel.lines(height), &watched.below())?;
        let ready = wait(&watched, &signals, reads_keys)?;
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
            watched.hear()?;
        }
        watched.look(ready.next)?;
    }
}

/// The process that is shown, and the search for another one.
struct Watched<'a> {
    socket: ControlSocket,
    /// The last figures.
    panel: Panel,
    command: &'a str,
    /// How long after the last figures the next ones count as late.
    late_after: Duration,
    /// When the last figures came.
    heard: Instant,
    /// The last change from one process to another, for the last row.
    said: String,
    search: Option<Search>,
    /// Whether the last search has found no other process. Then only the end of the connection begins another search, until
    /// figures come after a silence.
    gave_up: bool,
}

/// The search for another process at the same path.
struct Search {
    began: Instant,
    /// How the connection to the present process ended. `None` while that connection lives.
    lost: Option<Failure>,
    /// A connection on which the command was sent, and no answer has come.
    asked: Option<ControlSocket>,
    /// The earliest moment of the next connection. Without it, a program that ends each connection at once would be asked
    /// all the time.
    next: Instant,
}

impl Search {
    fn begin(lost: Option<Failure>) -> Self {
        let now = Instant::now();
        Self { began: now, lost, asked: None, next: now }
    }
}

impl Watched<'_> {
    /// The text of the last row.
    fn below(&self) -> String {
        let said = match &self.search {
            Some(Search { lost: Some(failure), .. }) => {
                &format!("{failure}; waiting for the next process there")
            }
            _ if self.is_late() => &format!(
                "process {} has said nothing for {} s",
                self.panel.process,
                self.heard.elapsed().as_secs()
            ),
            _ => &self.said,
        };
        format!("q ends   {said}").trim_end().to_owned()
    }

    fn is_lost(&self) -> bool {
        self.search.as_ref().is_some_and(|search| search.lost.is_some())
    }

    fn is_late(&self) -> bool {
        self.heard.elapsed() > self.late_after
    }

    /// Receives figures, or the end of the connection.
    fn hear(&mut self) -> Result<(), Failure> {
        match self.socket.receive_well() {
            Ok(reply) => {
                // Figures after a silence allow another search.
                self.gave_up &= !self.is_late();
                (self.panel, self.heard) = (Panel::read(&reply), Instant::now());
                if self.panel.successor.is_some() && self.search.is_none() && !self.gave_up {
                    self.search = Some(Search::begin(None));
                }
                Ok(())
            }
            Err(failure) if self.socket.has_ended() => {
                self.search = Some(Search::begin(Some(failure)));
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Takes a step of the search, if there is one. `answered` is whether the connection that was asked has input.
    fn look(&mut self, answered: bool) -> Result<(), Failure> {
        if self.search.is_none() && !self.gave_up && self.is_late() {
            self.search = Some(Search::begin(None));
        }
        let Some(search) = &mut self.search else { return Ok(()) };
        if answered {
            if let Some(mut asked) = search.asked.take() {
                // If this connection ends without an answer, a later step asks again.
                let panel = asked.receive_well().map(|reply| Panel::read(&reply));
                let is_new = |panel: &Panel| panel.process != self.panel.process;
                if let Some(panel) =
                    panel.ok().filter(|panel| search.lost.is_some() || is_new(panel))
                {
                    self.said = match is_new(&panel) {
                        true => format!(
                            "process {} has taken the place of process {}",
                            panel.process, self.panel.process
                        ),
                        false => "connected again".to_owned(),
                    };
                    (self.socket, self.panel, self.search) = (asked, panel, None);
                    (self.heard, self.gave_up) = (Instant::now(), false);
                    return Ok(());
                }
            }
        }
        if search.began.elapsed() > PATIENCE {
            self.gave_up = true;
            return self.search.take().and_then(|search| search.lost).map_or(Ok(()), Err);
        }
        let now = Instant::now();
        if search.asked.is_none() && now >= search.next {
            search.next = now + AGAIN;
            // The next process may not listen yet.
            search.asked = ControlSocket::connect(&self.socket.path)
                .and_then(|mut next| next.send(self.command).map(|()| next))
                .ok();
        }
        Ok(())
    }
}

/// The inputs that have something to be read.
#[derive(Clone, Copy, Default)]
struct Ready {
    socket: bool,
    next: bool,
    key: bool,
    ends: bool,
    stops: bool,
    redraws: bool,
}

fn wait(watched: &Watched<'_>, signals: &Signals, reads_keys: bool) -> Result<Ready, Failure> {
    let reads_socket = !watched.is_lost();
    if reads_socket && watched.socket.has_buffered() {
        return Ok(Ready { socket: true, ..Ready::default() });
    }
    let stdin = io::stdin();
    let asked = watched.search.as_ref().and_then(|search| search.asked.as_ref());
    let input = |is_read: bool| if is_read { PollFlags::IN } else { PollFlags::empty() };
    let mut fds = vec![
        PollFd::new(&stdin, input(reads_keys)),
        PollFd::new(&signals.ends, input(true)),
        PollFd::new(&signals.stops, input(true)),
        PollFd::new(&signals.redraws, input(true)),
    ];
    let own = reads_socket.then(|| PollFd::new(watched.socket.stream(), input(true)));
    let next = asked.map(|asked| PollFd::new(asked.stream(), input(true)));
    let (has_own, has_next) = (own.is_some(), next.is_some());
    fds.extend(own.into_iter().chain(next));
    let time = if watched.search.is_some() { AGAIN } else { SILENCE };
    let time = Timespec::try_from(time).ok();
    match poll(&mut fds, time.as_ref()) {
        Ok(_) => {}
        // A signal has interrupted the poll: the signal's socket is readable, and the next round sees it.
        Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(io::Error::from(error).into()),
    }
    let is_ready = |place: usize| fds.get(place).is_some_and(|fd| !fd.revents().is_empty());
    Ok(Ready {
        socket: has_own && is_ready(4),
        next: has_next && is_ready(4 + usize::from(has_own)),
        key: reads_keys && is_ready(0),
        ends: is_ready(1),
        stops: is_ready(2),
        redraws: is_ready(3),
    })
}

/// Reads keys, and returns true if one of them ends the panel. A terminal that is gone sends no more keys.
fn is_last_key(reads_keys: &mut bool) -> bool {
    let mut keys = [0; 64];
    match io::stdin().lock().read(&mut keys) {
        Ok(0) | Err(_) => {
            *reads_keys = false;
            false
        }
        // Without line editing Ctrl-D arrives as a key.
        Ok(count) => keys[..count].iter().any(|key| matches!(key, b'q' | b'Q' | 4)),
    }
}

fn empty(mut signals: &std::os::unix::net::UnixStream) {
    while matches!(signals.read(&mut [0; 64]), Ok(1..)) {}
}
