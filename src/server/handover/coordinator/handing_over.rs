//! A coordinator as a predecessor: it finds a candidate, and hands over to it.
//!
//! The order at the end matters, because the successor may be killed at any moment, and an operator may start a second one:
//!
//! ```text
//! 1  note what the successor has taken      a close here then leaves those queues and files to it
//! 2  tell the service manager               it accepts a new main process only from the old one
//! 3  stop the servers, say Release          from here on the successor alone accepts
//! 4  wait until the listeners are closed    a process that finds nobody at the path finds free addresses
//! 5  close the coordinator's own listener   the next process is answered by the successor, or by nobody
//! ```

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::candidate::Candidate;
use super::super::message::HandoverMessage;
use super::{Coordinator, State};
use crate::events::ServerEvent;
use crate::shutdown::ShutdownHandle;
use crate::transport::{Holders, Transport, UnixStream};
use crate::{sys, systemd};

/// How long to wait, at a stop in the middle of a handover, for the candidate to say that it goes on, or to end.
const LAST_ANSWER_WAIT: Duration = Duration::from_secs(1);

/// How long to wait for listeners to be closed. The loops close them as soon as they see the stop; a loop that is in a
/// hook of the program may be late.
const LISTENER_CLOSE_WAIT: Duration = Duration::from_secs(1);

impl Coordinator {
    /// The next candidate: SIGUSR2 starts one, or a process asks. The signal comes first: a process that asks can wait
    /// in the queue, and the signal may not come again. `None` if there is no candidate, or if one was refused; then the
    /// operator is warned.
    pub(super) fn next_candidate(&self) -> Option<Candidate> {
        if !self.all_serve() {
            return None;
        }
        if self.signalled.swap(false, Ordering::SeqCst) {
            match self.program.start() {
                Ok((child, channel)) => return Some(Candidate::started(child, channel, self)),
                Err(error) => {
                    let path = self.program.path.display();
                    self.warn(&format!(
                        "no successor: cannot start {path}: {error}; this server goes on"
                    ));
                }
            }
        }
        // The usual error says that no process asks.
        let (connection, _) = self.sockets.listener.as_ref()?.get_request().ok()?;
        let socket = UnixStream::connection(&connection)?;
        match sys::credentials(socket.as_fd()) {
            Ok(found) if found.uid == sys::user() => Some(Candidate::asking(found.pid, socket)),
            Ok(found) => {
                self.warn(&format!("user {} may not have the sockets of this server", found.uid));
                None
            }
            // The process has ended already.
            Err(_) => None,
        }
    }

    /// Takes the sockets back from a successor that has ended, and whose copies are closed. If it was the last one that
    /// had them, the sockets and their files are this process's alone again.
    pub(in crate::server::handover) fn take_back(&self) {
        if !self.left.may_have_sockets() {
            self.sockets.set_holders(Holders::Alone);
        }
    }

    /// Checks whether failed successors have ended, and takes the sockets back from them. Takes nothing back while another
    /// candidate has the sockets, or after the handover: then they are not this process's alone.
    pub(super) fn look_after_the_left(&self) {
        let is_shared = || matches!(&*self.state.lock(), Some(State::Applying(_) | State::Over));
        if self.left.look() && !is_shared() {
            self.take_back();
        }
    }

    /// Hands over to a successor that serves: this process accepts no more. `taken`: the numbers of the sockets that
    /// the successor has taken, all of them known. It has closed its copies of the others.
    pub(super) fn hand_over(&self, candidate: &Candidate, process: u32, taken: &[u16]) {
        // Each socket is decided on its own: the operator may have removed an address from the successor's command line.
        let passed = candidate.passed.iter().flatten();
        for (number, target) in passed.enumerate() {
            // The successor has closed each socket that it did not take.
            let is_taken = taken.iter().any(|taken| usize::from(*taken) == number);
            let holders = if is_taken { Holders::Other } else { Holders::Alone };
            self.sockets.with(*target, |socket| socket.set_holders(holders));
        }
        // From here on this process sends no more reports: the service manager would take them for the service's.
        for server in self.sockets.servers() {
            if let Some(membership) = server.context().membership() {
                membership.fall_silent();
            }
        }
        // systemd accepts this message only from the main process, which this one still is.
        if let Err(error) = systemd::notify(&format!("MAINPID={process}")) {
            self.warn(&format!(
                "cannot tell the service manager (NOTIFY_SOCKET) of process {process}: {error}"
            ));
        }
        for server in self.sockets.servers() {
            let server_address = &server.context().server_address();
            server.tell(&ServerEvent::HandedOver { server_address, process });
        }
        self.handles.iter().chain(&self.told).for_each(ShutdownHandle::shutdown);
        // If the successor has ended meanwhile, its clients are lost in any case.
        let _ = candidate.channel.send(&HandoverMessage::Release);
        // The listener at the path is closed last: if the successor is killed now, a process that finds no server at the
        // path has to find the addresses free.
        self.wait_until_closed();
        self.close_listener();
    }

    /// Ends the coordinator's work when the servers stop without a successor. A candidate that was started by others
    /// goes on alone, because nobody has told it to stop; one that this process has started ends with it.
    pub(super) fn stop(&self, state: State) -> State {
        let State::Applying(mut candidate) = state else {
            // A predecessor of this process, if there is one, sees the end of the connection. The predecessor goes on
            // serving, unless this process has already said that it is ready.
            self.close_listener();
            return State::Over;
        };
        if candidate.is_left_to_itself() {
            // The candidate was not told to stop, so it goes on alone.
            let _ = candidate.channel.send(&HandoverMessage::Release);
        } else {
            candidate.dismiss("it was told to stop");
        }
        self.close_listener();
        if candidate.passed.is_some() {
            // The process that closes a socket last removes its file. But the same stop may have killed the candidate,
            // before it could handle signals: then the files are left to this process.
            candidate.wait_for_end(Instant::now() + LAST_ANSWER_WAIT);
            self.sockets.remove_files_as_the_last();
        }
        State::Over
    }

    /// Waits until the addresses are free: before that, a process that asks would find them in use. A loop that takes
    /// the turns itself does not wait, because it would wait for its own end.
    pub(super) fn wait_until_closed(&self) {
        let deadline = Instant::now() + LISTENER_CLOSE_WAIT;
        for handle in &self.handles {
            handle.wait_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
