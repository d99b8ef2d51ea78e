//! [`ServiceGroup`]: the servers of one run. A service manager sees them as one service, and they count as idle only
//! together.
//!
//! ```text
//! loops of the servers                    ServiceGroup                               service manager
//! ready (each)            ------------->  the last one                 ------------>  READY=1
//! beat (each, in turns)   ------------->  have all been here again?    ------------>  WATCHDOG=1, STATUS=..
//!                                         all idle for long enough?  -> stops all
//! reload                  ------------->  the first begins, the last ends  -------->  RELOADING=1 .. READY=1
//! stopping (each)         ------------->  the last one                 ------------>  STOPPING=1
//! ```
//!
//! The loops wake for a beat only if a beat is needed: for a service manager, or for a server that stops when it is
//! idle.
//!
//! Each server has a [`Membership`], by which its loop and the threads that close it report; the group is the sum. All
//! reports go through one lock, which is held while a message is sent, so that messages leave in the order in which the
//! states were reached. A send waits for a second at most (`systemd.rs`), and no code of the program runs under the
//! lock.
//!
//! | the service is | if |
//! |---|---|
//! | starting | one of the servers is neither ready nor stopping yet |
//! | serving | at least one is ready and has not begun to stop, and none is starting |
//! | stopping | all have begun to stop |
//!
//! A stop may come while the hook `ready` runs, and then `stopping` is called before `ready`. Such a server stays stopping,
//! so `READY=1` never comes after `STOPPING=1`. If others serve, the service is ready without it.
//!
//! While the service is starting or stopping, a beat tells the service manager nothing. While it is serving, a message
//! is one datagram of lines:
//!
//! ```text
//! WATCHDOG=1
//! STATUS=serving at 127.0.0.1:9999, 127.0.0.1:9998: 3 requests open, 1207 completed
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::shutdown::ShutdownHandle;
use crate::sys;
use crate::systemd::ServiceManager;

/// The servers of one run.
#[derive(Debug)]
pub(crate) struct ServiceGroup {
    /// `None` if there is no service manager; the group then only decides whether all servers are idle.
    manager: Option<ServiceManager>,
    /// Whether another process has taken the service over. Never reset.
    is_replaced: AtomicBool,
    /// Held while a message is sent, so that messages leave in the order of the events.
    state: Mutex<GroupState>,
}

#[derive(Debug, Default)]
struct GroupState {
    /// The servers, in their order; a [`Membership`] is an index into this list.
    members: Vec<Member>,
    /// How many servers reload. The first to begin and the last to end tell the service manager.
    reloading: usize,
    /// Whether `READY=1` has been sent for the beginning of the run.
    has_been_ready: bool,
    /// The last line of status that was sent. An unchanged line is not sent again.
    status: String,
}

/// One server, as its loop has last reported it.
#[derive(Debug)]
struct Member {
    /// The server's address, for the line of status.
    address: String,
    /// Stops the server when all servers are idle.
    handle: ShutdownHandle,
    /// How far the server is. `Serving` is left out if a stop came while the hook `ready` ran.
    progress: MemberPhase,
    /// Whether the server's loop has beaten in this round.
    is_alive: bool,
    /// The server's numbers, as of its last beat or of the beginning of its stop.
    load: Load,
    /// Since when the server has had no request.
    idle_since: Instant,
    /// `Builder::stop_when_idle`. Known from the server's first beat on. A server without a limit keeps the others from
    /// stopping.
    idle_limit: Option<Duration>,
}

/// How far a server is, as the service manager sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberPhase {
    /// The server has a membership, and its loop has not begun.
    Starting,
    /// The server serves: from the hook `ready` on.
    Serving,
    /// The server stops: from the beginning of its lame duck or its close on. Its loop may beat for a while, and is not
    /// waited for.
    Stopping,
}

/// The requests of a server in numbers, as its context counts them. The numbers are of slightly different moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests that are open now.
    pub(crate) live: usize,
    /// Requests that have been accepted so far.
    pub(crate) accepted: u64,
    /// Requests that have been completed so far.
    pub(crate) completed: u64,
}

/// A server's place in its group. Clones are the same place: the context of the server has one, and its loop another.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    group: Arc<ServiceGroup>,
    index: usize,
}

/// How often the status is updated, if nothing else wakes the loop: it is for a person at `systemctl status`.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// How often a loop checks within the time of `Builder::stop_when_idle`. So the stop is late by an eighth of that time
/// at most.
const IDLE_CHECKS: u32 = 8;

/// Extra time beyond the limits, because a close is never quite punctual: forced requests have a moment to notice it, threads
/// are joined, and then the program itself has to end.
const MARGIN: Duration = Duration::from_secs(5);

impl ServiceGroup {
    /// Makes the group, and returns a membership for each server, in their order. A server is given by its address and its
    /// handle. The group lives as long as one of the memberships.
    pub(crate) fn memberships(
        servers: impl Iterator<Item = (String, ShutdownHandle)>,
        manager: Option<ServiceManager>,
    ) -> Vec<Membership> {
        let member = |(address, handle)| Member {
            // This is one line, whatever a path contains: the control characters of an address are escaped.
            address,
            handle,
            progress: MemberPhase::Starting,
            is_alive: false,
            load: Load::default(),
            idle_since: Instant::now(),
            idle_limit: None,
        };
        let members: Vec<_> = servers.map(member).collect();
        let count = members.len();
        let state = Mutex::new(GroupState { members, ..GroupState::default() });
        let group = Arc::new(Self { manager, is_replaced: AtomicBool::new(false), state });
        (0..count).map(|index| Membership { group: Arc::clone(&group), index }).collect()
    }

    /// Sends lines of `NAME=value` to the service manager, if there is one. The caller holds the lock of the state.
    fn tell(&self, message: &str) {
        // Checked for each message, because a handover comes in the middle of a run.
        let is_replaced = self.is_replaced.load(Ordering::SeqCst);
        if let Some(manager) = self.manager.as_ref().filter(|_| !is_replaced) {
            manager.tell(message);
        }
    }
}

impl Membership {
    /// Ends the reports after a handover: another process is the service from here on. With `NotifyAccess=all` the
    /// service manager would take a `STOPPING=1` of this process for one of the service, and would stop the other
    /// process as well.
    pub(crate) fn fall_silent(&self) {
        self.group.is_replaced.store(true, Ordering::SeqCst);
    }

    /// How often the loop of this server has to [`beat`](Self::beat). None if no beat is needed.
    pub(crate) fn beat_every(&self, idle_limit: Option<Duration>) -> Option<Duration> {
        let several = self.group.state.lock().members.len() > 1;
        // A round is complete when its last loop has beaten. With several loops that may take two intervals, and systemd
        // advises that a round take half of the watchdog's time.
        let part = if several { 4 } else { 2 };
        let manager = self.group.manager.as_ref();
        let watchdog = manager.and_then(|manager| Some(manager.watchdog()? / part));
        let status = manager.map(|_| STATUS_EVERY);
        let idle = idle_limit.map(|limit| limit / IDLE_CHECKS);
        let every = [watchdog, status, idle].into_iter().flatten().min()?;
        Some(every.max(Duration::from_millis(1)))
    }

    /// Reports that the server is ready. If no other server of the group is still starting, this also reports the service as
    /// ready, once for each run, and the service manager starts the services that wait for this one. Called by the thread
    /// of the server's run, after the hook `ready`. The server's idle time begins here.
    pub(crate) fn ready(&self) {
        let mut state = self.group.state.lock();
        let member = &mut state.members[self.index];
        if member.progress == MemberPhase::Starting {
            member.progress = MemberPhase::Serving;
        }
        member.idle_since = Instant::now();
        if state.is_serving() && !state.has_been_ready {
            state.has_been_ready = true;
            let status = state.new_status();
            self.group.tell(&format!("READY=1{status}"));
        }
    }

    /// Notes that the server begins to stop. If no other server serves, this also reports to the service manager that the
    /// service stops, and how long that may take. Called once for each server, perhaps before `ready`.
    pub(crate) fn stopping(&self, at_most: Duration, load: Load) {
        let mut state = self.group.state.lock();
        let member = &mut state.members[self.index];
        member.load = load;
        member.progress = MemberPhase::Stopping;
        if state.is_stopping() {
            let open: usize = state.members.iter().map(|member| member.load.live).sum();
            let (extend, requests) = (extend(at_most), requests(open));
            self.group.tell(&format!("STOPPING=1\n{extend}\nSTATUS=stopping, {requests} open"));
        }
    }

    /// Tells the service manager that the close takes this time at the most, from now on. Called again when the lame
    /// duck is over, because that may have been cut short.
    pub(crate) fn extend(&self, at_most: Duration) {
        let state = self.group.state.lock();
        if state.is_stopping() {
            self.group.tell(&extend(at_most));
        }
    }

    /// Notes that a reload begins. [`reloaded`](Self::reloaded) follows, on the same thread.
    pub(crate) fn reloading(&self) {
        let mut state = self.group.state.lock();
        // Counted even while the service is not serving, because `reloaded` counts it off in any case.
        state.reloading += 1;
        if state.reloading == 1 && state.is_serving() {
            // This moment shows systemd which `systemctl reload` the message answers. Without it that command would go
            // on waiting.
            let micros = sys::monotonic_micros();
            self.group.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        }
    }

    /// Notes that a reload has ended.
    pub(crate) fn reloaded(&self) {
        let mut state = self.group.state.lock();
        state.reloading -= 1;
        if state.reloading == 0 && state.is_serving() {
            self.group.tell("READY=1");
        }
    }

    /// Notes that the loop of this server is alive, and has this load. Called by the loop alone, as often as
    /// [`beat_every`](Self::beat_every) says; a beat that comes early or late does no harm.
    pub(crate) fn beat(&self, load: Load, idle_limit: Option<Duration>) {
        let mut state = self.group.state.lock();
        let now = Instant::now();
        let member = &mut state.members[self.index];
        member.is_alive = true;
        member.idle_limit = idle_limit;
        // A request that was open at the last beat has been served since then. A request that has come and gone since
        // shows in the count of accepted requests.
        if load.live + member.load.live > 0 || load.accepted != member.load.accepted {
            member.idle_since = now;
        }
        member.load = load;
        // The beat after which all are idle stops each of them, as a `shutdown` by the program would.
        if state.all_idle(now) {
            for member in &state.members {
                member.handle.shutdown();
            }
        }
        if !state.is_serving() {
            return;
        }
        // Without a watchdog, the message for it would only wake the service manager.
        let watched =
            self.group.manager.as_ref().is_some_and(|manager| manager.watchdog().is_some());
        // Called in any case, because it also ends the round.
        let all_alive = state.all_alive();
        let watchdog = if all_alive && watched { "WATCHDOG=1" } else { "" };
        let message = format!("{watchdog}{}", state.new_status());
        if !message.is_empty() {
            // `new_status` begins with a newline, to end the line of the watchdog, which may be missing.
            self.group.tell(message.trim_start());
        }
    }
}

impl GroupState {
    /// Whether the service is serving: see the table at the top of the file.
    fn is_serving(&self) -> bool {
        let is_starting = |member: &Member| member.progress == MemberPhase::Starting;
        !self.members.iter().any(is_starting) && !self.is_stopping()
    }

    /// Whether all servers have begun to stop.
    fn is_stopping(&self) -> bool {
        self.members.iter().all(|member| member.progress == MemberPhase::Stopping)
    }

    /// Whether all loops have beaten in this round. If so, the next round begins. One loop that hangs keeps the round
    /// from ending, and the service manager's watchdog then restarts the service.
    fn all_alive(&mut self) -> bool {
        // A server that stops need not beat any more.
        let is_due = |member: &Member| member.is_alive || member.progress == MemberPhase::Stopping;
        let all = self.members.iter().all(is_due);
        if all {
            self.members.iter_mut().for_each(|member| member.is_alive = false);
        }
        all
    }

    /// Whether every server has served nobody for as long as its own limit. A server that stops is not asked; a server
    /// that has not begun, or has no limit, is not idle.
    fn all_idle(&self, now: Instant) -> bool {
        let is_idle = |member: &Member| {
            let idle = now.saturating_duration_since(member.idle_since);
            let is_over = member.idle_limit.is_some_and(|limit| idle >= limit);
            is_over && member.progress == MemberPhase::Serving && member.load.live == 0
        };
        self.members
            .iter()
            .all(|member| member.progress == MemberPhase::Stopping || is_idle(member))
    }

    /// The line of status, with a newline before it. Empty if it is the same as last time.
    fn new_status(&mut self) -> String {
        let serving = self.members.iter().filter(|member| member.progress == MemberPhase::Serving);
        // The addresses are those of the servers that still serve. The numbers are sums over all servers, so that no
        // sum falls when one of them stops.
        let addresses: Vec<&str> = serving.map(|member| &*member.address).collect();
        let live = requests(self.members.iter().map(|member| member.load.live).sum());
        let completed: u64 = self.members.iter().map(|member| member.load.completed).sum();
        let at = addresses.join(", ");
        let status = format!("\nSTATUS=serving at {at}: {live} open, {completed} completed");
        if status == self.status {
            return String::new();
        }
        self.status.clone_from(&status);
        status
    }
}

fn requests(count: usize) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}

/// The line that asks for this much time, counted from now.
fn extend(time: Duration) -> String {
    /// The service manager adds this to its clock, in microseconds and 64 bits. A year cannot overflow, and is as good
    /// as no limit.
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let micros = time.saturating_add(MARGIN).min(YEAR).as_micros();
    format!("EXTEND_TIMEOUT_USEC={micros}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Runs;

    fn memberships(count: usize) -> Vec<Membership> {
        let handle = || ShutdownHandle::new(Arc::new(Runs::new().unwrap()));
        ServiceGroup::memberships((0..count).map(|number| (number.to_string(), handle())), None)
    }

    fn is_stopped(membership: &Membership) -> bool {
        membership.group.state.lock().members[membership.index].handle.is_shutdown()
    }

    #[test]
    fn servers_of_a_group_are_idle_together_or_not_at_all() {
        let memberships = memberships(2);
        let (limit, none) = (Some(Duration::ZERO), Load::default());
        let busy = Load { live: 1, accepted: 1, completed: 0 };
        memberships.iter().for_each(Membership::ready);
        memberships[0].beat(none, limit);
        // The second server's limit is not known yet.
        assert!(!is_stopped(&memberships[0]));
        memberships[1].beat(busy, limit);
        memberships[0].beat(none, limit);
        assert!(!is_stopped(&memberships[0]) && !is_stopped(&memberships[1]));
        memberships[1].beat(Load { live: 0, ..busy }, limit);
        assert!(is_stopped(&memberships[0]) && is_stopped(&memberships[1]));
    }

    #[test]
    fn a_server_that_has_no_limit_keeps_the_others() {
        let memberships = memberships(2);
        memberships.iter().for_each(Membership::ready);
        memberships[1].beat(Load::default(), None);
        memberships[0].beat(Load::default(), Some(Duration::ZERO));
        assert!(!is_stopped(&memberships[0]));
        // A server that has stopped is not waited for.
        memberships[1].stopping(Duration::ZERO, Load::default());
        memberships[0].beat(Load::default(), Some(Duration::ZERO));
        assert!(is_stopped(&memberships[0]));
    }

    #[test]
    fn the_watchdog_hears_of_a_round_of_all_loops() {
        let memberships = memberships(2);
        memberships.iter().for_each(Membership::ready);
        let group = Arc::clone(&memberships[0].group);
        let has_beaten = |index: usize| {
            group.state.lock().members[index].is_alive = true;
            group.state.lock().all_alive()
        };
        assert!(!has_beaten(0) && !has_beaten(0) && has_beaten(1));
        assert!(!has_beaten(1), "a new round has begun");
    }

    #[test]
    fn a_stop_that_comes_before_ready_is_not_taken_back() {
        let memberships = memberships(2);
        let has_been_ready = || memberships[0].group.state.lock().has_been_ready;
        // The first server is stopped while its hook `ready` runs. The second one serves, and makes the service ready.
        memberships[0].stopping(Duration::ZERO, Load::default());
        memberships[0].ready();
        assert!(!has_been_ready(), "the other one is starting");
        memberships[1].ready();
        assert!(has_been_ready() && memberships[0].group.state.lock().is_serving());
        memberships[1].stopping(Duration::ZERO, Load::default());
        memberships[1].ready();
        assert!(memberships[0].group.state.lock().is_stopping());
    }

    #[test]
    fn a_time_without_end_is_a_number_that_can_be_counted() {
        assert_eq!(extend(Duration::from_secs(1)), "EXTEND_TIMEOUT_USEC=6000000");
        assert_eq!(extend(Duration::MAX), "EXTEND_TIMEOUT_USEC=31536000000000");
    }
}
