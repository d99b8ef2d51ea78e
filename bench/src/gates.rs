//! Bounds for our servers' figures, mostly as ratios to those of their peers: gates, which must hold, and goals.

use crate::figures::Figure;
use crate::load::Load;

/// A bound and a goal for one of our servers in one load.
#[derive(Debug)]
pub struct Gate {
    pub load: Load,
    pub ours: &'static str,
    pub against: Against,
    pub figure: Figure,
    /// The ratio that must hold.
    pub gate: f64,
    /// The ratio to reach.
    pub goal: f64,
}

/// The figure that ours is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Against {
    /// The same figure of this peer, in the same round.
    Peer(&'static str),
    /// Nothing: the figure itself counts.
    Itself,
}

impl Against {
    /// The peer, if there is one.
    pub fn peer(self) -> Option<&'static str> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Itself => None,
        }
    }
}

/// Which of its bounds a measured value reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Goal,
    Gate,
    Neither,
}

impl Gate {
    /// Compares a measured value, or ratio, with the bounds.
    pub fn verdict(&self, value: f64) -> Verdict {
        let reaches = |bound: f64| match self.figure.less_is_better() {
            true => value <= bound,
            false => value >= bound,
        };
        match (reaches(self.gate), reaches(self.goal)) {
            (_, true) => Verdict::Goal,
            (true, false) => Verdict::Gate,
            (false, false) => Verdict::Neither,
        }
    }
}

const fn gate(
    load: Load,
    ours: &'static str,
    against: &'static str,
    figure: Figure,
    gate: f64,
    goal: f64,
) -> Gate {
    Gate { load, ours, against: Against::Peer(against), figure, gate, goal }
}

use Figure::{Cpu, P99, Pss, Rate};
use Load::{
    Chat, Churn, Http, Idle, Pingpong, Stalled, Store, TlsHandshakes, TlsPingpong, TlsResumed, Udp,
    Upload,
};

/// All gates, in the order of the loads. A rate counts together with its tail and its CPU time: a server can have the
/// one by giving up the others.
pub const GATES: &[Gate] = &[
    gate(Pingpong(1), "Threading", "std threads", Rate, 0.97, 1.0),
    gate(Pingpong(64), "Threading", "std threads", Rate, 0.97, 1.0),
    gate(Pingpong(1_000), "Threading", "std threads", Rate, 0.97, 1.0),
    gate(Pingpong(64), "Green", "epoll", Cpu, 1.05, 1.0),
    gate(Pingpong(64), "Green", "epoll", Rate, 0.95, 1.0),
    gate(Pingpong(64), "Green", "epoll", P99, 1.1, 1.0),
    gate(Pingpong(64), "Green", "tokio", Cpu, 1.0, 0.95),
    gate(Pingpong(64), "Green", "may", Rate, 1.05, 1.2),
    gate(Pingpong(64), "Green", "Go", Rate, 1.15, 1.3),
    gate(Pingpong(1_000), "Green", "epoll", Cpu, 1.06, 1.0),
    gate(Pingpong(1_000), "Green", "epoll", Rate, 0.96, 1.02),
    gate(Pingpong(1_000), "Green", "epoll", P99, 1.1, 1.0),
    gate(Pingpong(1_000), "Green", "tokio", Cpu, 1.02, 0.96),
    gate(Pingpong(1_000), "Green", "may", Rate, 1.05, 1.2),
    gate(Pingpong(1_000), "Green", "Go", Rate, 1.15, 1.3),
    gate(Pingpong(10_000), "Green", "epoll", Cpu, 1.06, 0.97),
    gate(Pingpong(10_000), "Green", "epoll", Rate, 0.95, 1.0),
    gate(Pingpong(10_000), "Green", "epoll", P99, 1.1, 1.0),
    gate(Pingpong(10_000), "Green", "tokio", Cpu, 1.15, 1.0),
    gate(Pingpong(10_000), "Green", "may", Rate, 1.05, 1.2),
    gate(Pingpong(10_000), "Green", "Go", Rate, 1.15, 1.3),
    gate(Churn(64), "Inline", "epoll", Cpu, 0.85, 0.72),
    gate(Churn(64), "Green", "tokio", Cpu, 0.8, 0.7),
    gate(Churn(64), "Threading", "std threads", Cpu, 0.47, 0.4),
    gate(Churn(64), "Pool", "pool of 4", Cpu, 1.0, 0.85),
    gate(Churn(64), "Forking", "bare fork", Cpu, 1.2, 1.08),
    gate(Udp(16, 16), "Inline", "mmsg", Rate, 0.98, 1.1),
    gate(Udp(16, 16), "Green", "mmsg", Rate, 0.96, 1.08),
    gate(Upload(4), "Threading", "std threads", Rate, 0.93, 1.0),
    gate(Upload(4), "Green", "std threads", Rate, 0.93, 1.0),
    gate(Store(1), "Threading", "std threads", Rate, 0.93, 1.0),
    Gate {
        load: Idle(10_000),
        ours: "Green",
        against: Against::Itself,
        figure: Pss,
        gate: 4.7,
        goal: 4.2,
    },
    gate(Idle(10_000), "Threading", "std threads", Pss, 0.65, 0.55),
    gate(Chat(100, 8), "Green", "tokio", Rate, 5.5, 6.5),
    gate(Chat(100, 1), "Green", "tokio", Rate, 1.03, 1.1),
    gate(Chat(100, 8), "Threading", "tokio", Rate, 5.0, 7.0),
    gate(Chat(100, 1), "Threading", "tokio", Rate, 0.97, 1.02),
    gate(Http(64, 1), "Green", "hyper", Cpu, 1.0, 0.92),
    gate(Http(64, 16), "Green", "hyper", Rate, 1.0, 1.3),
    gate(Http(64, 1), "Threading", "std threads", Cpu, 1.03, 0.95),
    gate(Http(64, 16), "Threading", "std threads", Cpu, 1.0, 0.95),
    gate(Http(4, 1), "Pool", "std threads", Cpu, 1.0, 0.95),
    gate(Http(4, 16), "Pool", "std threads", Cpu, 1.0, 0.95),
    gate(TlsPingpong(1), "Threading", "std threads + rustls", Rate, 0.95, 1.0),
    gate(TlsPingpong(64), "Threading", "std threads + rustls", Rate, 0.95, 1.0),
    gate(TlsHandshakes(64), "Threading", "std threads + rustls", Cpu, 1.05, 1.0),
    gate(TlsResumed(64), "Threading", "std threads + rustls", Cpu, 1.05, 1.0),
];

/// The servers that the gates of a load compare, each of ours right before its peer.
pub fn compared(load: Load) -> Vec<&'static str> {
    let mut servers = Vec::new();
    for gate in GATES.iter().filter(|gate| gate.load == load) {
        for server in [Some(gate.ours), gate.against.peer()].into_iter().flatten() {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    servers
}

/// The peer that all servers of a load are compared with.
pub fn baseline(load: Load) -> &'static str {
    match load {
        Pingpong(_) | Upload(_) | Store(_) | Idle(_) => "std threads",
        Churn(_) => "epoll",
        Udp(..) => "mmsg",
        Chat(..) | Stalled(..) => "tokio",
        Http(..) => "hyper",
        TlsPingpong(_) | TlsHandshakes(_) | TlsResumed(_) => "std threads + rustls",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::SERVERS;

    #[test]
    fn gates_speak_of_servers_and_loads_that_there_are() {
        let can = |name, load| SERVERS.iter().any(|server| server.name == name && server.can(load));
        for gate in GATES {
            assert!(Load::ALL.contains(&gate.load) && can(gate.ours, gate.load), "{gate:?}");
            if let Some(peer) = gate.against.peer() {
                assert!(can(peer, gate.load), "{gate:?}");
            }
        }
        for load in Load::ALL {
            assert!(can(baseline(load), load), "{load}");
        }
    }

    #[test]
    fn less_cpu_is_better_and_a_higher_rate_is() {
        let verdicts = |figure, gate, goal| {
            let gate = super::gate(Churn(64), "Inline", "epoll", figure, gate, goal);
            [0.5, 1.0, 1.5].map(|value| gate.verdict(value))
        };
        use Verdict::{Gate, Goal, Neither};
        assert_eq!(verdicts(Cpu, 1.2, 0.8), [Goal, Gate, Neither]);
        assert_eq!(verdicts(Rate, 0.8, 1.2), [Neither, Gate, Goal]);
    }
}
