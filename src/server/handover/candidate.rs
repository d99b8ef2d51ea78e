//! [`Candidate`]: a process that is about to become the successor of this one.
//!
//! ```text
//! started by SIGUSR2 --+
//!                      +--> Hello --> passed the sockets --> Ready --> this process accepts no more
//! connected by itself -+      |               |
//!                             v               v
//!                      failed: told why   failed: told why, and watched until it ends (left_behind.rs)
//! ```
//!
//! The whole attempt has the time of `Handover::within`, but a process that has connected has only five seconds for its
//! Hello, because others wait behind it. Any mistake of a candidate ends this one attempt, and the server goes on.
//!
//! There is one candidate at a time: two that serve the same sockets would each take half of the clients. Another
//! process that connects waits in the queue of the listener.
//!
//! From the moment at which the sockets are passed until the candidate has ended, both processes may have them. So for
//! that time this process removes no file of a Unix socket (`Holders::Both`), and it takes the sockets back only when
//! it has seen the candidate's end.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::coordinator::Coordinator;
use super::message::HandoverMessage;
use super::own_sockets::Target;
use crate::sys::child_process;
use crate::wait::moment_after;

/// How long a process may take for its first message after it has connected. Others that have connected wait for that
/// time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an ending process may take to close its sockets after it has closed the connection. The kernel closes the
/// descriptors of an ending process one after the other, which takes microseconds each.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(20);

/// One process's attempt to become the successor. Its first mistake ends the attempt, and the next attempt begins
/// anew.
pub(super) struct Candidate {
    pub(super) channel: Channel,
    /// The process, if this one has started it. It is reaped here, or by `left_behind.rs`.
    pub(super) child: Option<Child>,
    /// The candidate's process number, where that is known.
    process: Option<i32>,
    /// The end of this attempt. It is moved once: when a candidate that has connected by itself says Hello.
    pub(super) deadline: Instant,
    /// When the candidate was started, or has connected. `Handover::within` counts from here.
    began: Instant,
    /// The sockets that the candidate was passed, in the order of their numbers. `None` before it asks.
    pub(super) passed: Option<Vec<Target>>,
}

/// The result of [`Candidate::step`].
pub(super) enum CandidateStep {
    /// The candidate has said nothing more. The next step is due at its next message, or at the deadline.
    Wait,
    /// The attempt has failed, and the operator was told why. If the candidate may have the sockets, `Coordinator::left`
    /// watches it.
    Failed,
    /// The candidate serves, and has taken the sockets with these numbers.
    Ready { process: u32, taken: Vec<u16> },
}

impl Candidate {
    /// A candidate that this process has started. It has the whole time of the attempt, because a program may take
    /// long to begin.
    pub(super) fn started(child: Child, channel: Channel, coordinator: &Coordinator) -> Self {
        let began = Instant::now();
        let process = i32::try_from(child.id()).ok();
        let deadline = moment_after(began, coordinator.within);
        Self { channel, child: Some(child), process, deadline, began, passed: None }
    }

    /// A candidate that has connected by itself, and whose user was found to be this process's. `process`: its number,
    /// where the kernel tells it.
    pub(super) fn asking(process: Option<i32>, socket: Arc<OwnedFd>) -> Self {
        let began = Instant::now();
        let (channel, deadline) = (Channel::new(socket), began + HELLO_TIMEOUT);
        Self { channel, child: None, process, deadline, began, passed: None }
    }

    /// Reads all messages of the candidate that have come, and answers them. It waits while it passes the sockets (see
    /// `own_sockets.rs`), and a few milliseconds for the exit status of a candidate that has ended.
    pub(super) fn step(&mut self, coordinator: &Coordinator) -> CandidateStep {
        loop {
            let message = match self.channel.receive() {
                Ok(None) if Instant::now() < self.deadline => return CandidateStep::Wait,
                Ok(None) => {
                    // The text names the limit that has passed: the time for a Hello, or that of the whole attempt.
                    let limit = self.deadline.saturating_duration_since(self.began).as_secs_f64();
                    let what = if self.passed.is_some() { "ready" } else { "heard of" };
                    return self
                        .fail(coordinator, &format!("it was not {what} within {limit:.1} s"));
                }
                Ok(Some((message, _))) => message,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.gone(coordinator);
                }
                Err(error) => return self.fail(coordinator, &error.to_string()),
            };
            match (message, &self.passed) {
                // From here on the candidate has the whole time of the attempt: it is a program of this user that starts.
                (HandoverMessage::Hello, None) => match coordinator.sockets.pass(&self.channel) {
                    Ok(passed) => {
                        self.passed = Some(passed);
                        self.deadline = moment_after(self.began, coordinator.within);
                    }
                    Err(error) => {
                        // From here on the successor may have some of the sockets.
                        self.passed = Some(Vec::new());
                        return self.fail(
                            coordinator,
                            &format!("it cannot be passed the sockets: {error}"),
                        );
                    }
                },
                (HandoverMessage::Ready { process, taken }, Some(passed)) => {
                    // A number beyond the list names no socket.
                    let is_known = |number: &u16| usize::from(*number) < passed.len();
                    if !taken.iter().all(is_known) {
                        return self
                            .fail(coordinator, "it is ready with sockets that it was not passed");
                    }
                    return CandidateStep::Ready { process, taken };
                }
                // Ready before Hello, Hello twice, or a message that only a predecessor sends.
                _ => return self.fail(coordinator, "it sends its messages in the wrong order"),
            }
        }
    }

    /// Ends the attempt of a candidate that has closed its end of the channel. Usually its process has ended, and its
    /// copies of the sockets are closed. So its channel is not watched any more, unlike that of one that has failed.
    fn gone(&mut self, coordinator: &Coordinator) -> CandidateStep {
        if self.passed.is_some() {
            coordinator.take_back();
        }
        let status = self.child.as_mut().and_then(status_soon);
        let status = status.map_or_else(String::new, |status| format!(" ({status})"));
        self.tell(coordinator, &format!("it ended before it was ready{status}"));
        CandidateStep::Failed
    }

    /// Ends the attempt with a failure: this process goes on alone. The candidate may still have the sockets, so its
    /// channel is kept until it closes.
    fn fail(&mut self, coordinator: &Coordinator, why: &str) -> CandidateStep {
        self.dismiss(why);
        if self.passed.is_some() {
            coordinator.left.add_holder(self.channel.share());
        }
        self.tell(coordinator, why);
        CandidateStep::Failed
    }

    /// Tells the candidate that it must not serve. If this process has started it, it also gets a signal to end: a
    /// program that hangs before its run would read nothing.
    pub(super) fn dismiss(&self, why: &str) {
        let why = format!("the attempt is over: {why}");
        // An error is ignored: the successor may have ended, or does not read.
        let _ = self.channel.send(&HandoverMessage::Refuse(why));
        if let (Some(_), Some(process)) = (&self.child, self.process) {
            child_process::signal(process, libc::SIGTERM);
        }
    }

    /// Whether the candidate has the sockets and was started by others. Such a process goes on when this one stops.
    pub(super) fn is_left_to_itself(&self) -> bool {
        self.child.is_none() && self.passed.is_some()
    }

    /// Waits until the candidate has closed its connection and, if this process has started it, has ended; at most
    /// until the deadline.
    pub(super) fn wait_for_end(&mut self, deadline: Instant) {
        self.channel.wait_until_closed(deadline);
        match &mut self.child {
            // A process that ends closes one descriptor after the other.
            Some(child) => {
                while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            // The end of a process that is not a child cannot be waited for.
            None => std::thread::sleep(CLOSE_TIMEOUT),
        }
    }

    /// Tells the operator that the attempt is over.
    fn tell(&self, coordinator: &Coordinator, why: &str) {
        let unknown = || "a process".to_owned();
        let who = self.process.map_or_else(unknown, |process| format!("process {process}"));
        coordinator.warn(&format!("no handover to {who}: {why}; this server goes on"));
    }
}

/// The status of a child that has just closed its descriptors. If it is ending, its status comes in the next moment.
fn status_soon(child: &mut Child) -> Option<ExitStatus> {
    for _ in 0..10 {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}
