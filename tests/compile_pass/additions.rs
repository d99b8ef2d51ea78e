//! A program that names everything that may be added to: a limit, a close reason, a hook, an event and others. It was
//! written against 0.1.0 and must go on to compile.
//!
//! Each match has all values of today and a wildcard. `unreachable_patterns` is an error, so that the program also
//! fails to compile if a type loses its `#[non_exhaustive]`.

#![deny(unreachable_patterns)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socketserver::hooks::{Fault, Phase};
use socketserver::mixin::{Job, Mixin, Refused, WhenFull};
use socketserver::monitor::{Activity, CloseReason, Counts, Cut, DrainReport, Limit, LiveRequest, ServerEvent};
use socketserver::park::{Interest, Parker, Slot, Waiting};
use socketserver::request::{Credentials, Deadline, OutboxError, Request, Timeout};
use socketserver::transport::{AcceptAction, BeforeBind, CloseWhen, Transport};
use socketserver::{Address, Builder, DatagramRequest, DatagramRequestHandler, HandlerResult, Limits, Rate, ServerHooks, SocketOptions, StreamRequest, StreamRequestHandler, TcpServer};

/// All limits, by their setters.
fn limits() -> Limits {
    let second = Duration::from_secs(1);
    Limits::default()
        .live(100)
        .per_peer(10)
        .accept_rate(Rate::per_second(100).burst(200))
        .peer_rate(None)
        .line_bytes(1_000)
        .outbox_bytes(1_000)
        .idle(second)
        .read(second)
        .write(second)
        .request(second)
        .handshake(second)
        .linger(second)
        .linger_bytes(1_000)
        .drain(second)
        .lame_duck(second)
        .first_read(second)
}

/// All options of a socket, by their setters.
fn options() -> SocketOptions {
    SocketOptions::default()
        .allow_reuse_address(true)
        .allow_reuse_port(false)
        .request_queue_size(5)
        .only_v6(true)
        .keepalive(Duration::from_secs(60))
        .recv_buffer_bytes(65_536)
        .send_buffer_bytes(65_536)
        .max_packet_size(1_400)
        .unix_mode(0o600)
        .replace_stale(true)
        .unlink_on_close(true)
}

/// Hooks and handlers implement what they need; a method that is added has a default.
struct Nothing;

impl<R: Request> ServerHooks<R> for Nothing {}

impl StreamRequestHandler for Nothing {
    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        Ok(())
    }
}

impl DatagramRequestHandler for Nothing {
    fn handle(&mut self, _request: &mut DatagramRequest) -> HandlerResult {
        Ok(())
    }
}

struct Here;

impl Mixin for Here {
    fn process_request(&self, job: Job) {
        let reason: CloseReason = job.run();
        println!("{reason}: {}", name_of(reason));
    }
}

struct Never;

impl Transport for Never {
    type Raw = ();
    type Request = Packet;

    fn server_bind(&self, _before_bind: BeforeBind<'_>) -> socketserver::Result<()> {
        Ok(())
    }

    fn server_activate(&self) -> socketserver::Result<()> {
        Ok(())
    }

    fn server_address(&self) -> Address {
        Address::Unnamed
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        None
    }

    fn get_request(&self) -> io::Result<((), Address)> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn make_request(&self, (): (), ticket: socketserver::transport::Ticket) -> Packet {
        Packet { ticket }
    }

    fn server_close(&self) {}
}

struct Packet {
    ticket: socketserver::transport::Ticket,
}

impl Request for Packet {
    fn client_address(&self) -> &Address {
        self.ticket.client_address()
    }

    fn server(&self) -> &socketserver::ServerContext {
        self.ticket.server()
    }

    fn set_deadline(&mut self, deadline: Option<Deadline>) {
        if let Some(Deadline { at, limit, after, .. }) = deadline {
            println!("{at:?} {limit} {after:?}");
        }
    }
}

struct Spin;

impl Parker for Spin {
    fn park(&self, waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()> {
        for Waiting { fd, interest, slot, .. } in waiting {
            let writes = match interest {
                Interest::Read => false,
                Interest::Write => true,
                _ => return Err(io::ErrorKind::Unsupported.into()),
            };
            println!("{fd:?} {writes} {deadline:?} {:?}", slot.map(Slot::get));
        }
        Ok(())
    }

    fn forget(&self, _fd: std::os::fd::BorrowedFd<'_>, _slot: &Slot) {}
}

fn name_of(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Completed => "completed",
        CloseReason::Failed | CloseReason::Panicked | CloseReason::Fatal => "failed",
        CloseReason::Disconnected | CloseReason::Garbled | CloseReason::LineTooLong => "peer",
        CloseReason::Idle | CloseReason::TimedOut => "slow",
        CloseReason::Stopped | CloseReason::Forced | CloseReason::ClosedHere => "stopped",
        CloseReason::Rejected | CloseReason::Refused => "not served",
        CloseReason::Released | CloseReason::Killed => "elsewhere",
        _ => "new",
    }
}

fn observe(event: &ServerEvent<'_>) {
    match event {
        ServerEvent::Ready { server_address, .. }
        | ServerEvent::Stopping { server_address, .. } => {
            println!("{server_address}");
        }
        ServerEvent::RequestStarted { id, client_address, handler, .. } => {
            println!("{id} {client_address} {handler}");
        }
        ServerEvent::RequestEnded { reason, age, bytes_in, bytes_out, .. } => {
            println!("{reason} {age:?} {bytes_in} {bytes_out}");
        }
        ServerEvent::Reloaded { server_address, .. }
        | ServerEvent::PhaseReached { server_address, .. } => println!("{server_address}"),
        ServerEvent::AcceptFailed { error, .. } => println!("{error}"),
        ServerEvent::LimitReached { limit, .. } => match limit {
            Limit::Live | Limit::AcceptRate | Limit::PerPeer | Limit::PeerRate => {
                println!("{limit}")
            }
            _ => {}
        },
        _ => {}
    }
}

fn others(
    (when_full, error, refused): (WhenFull, OutboxError, &Refused),
    (phase, fault): (Phase, Fault),
    (action, when): (AcceptAction, CloseWhen),
    (timeout, activity, cut): (Timeout, Activity, Cut),
) -> u32 {
    let mut known = 0;
    known += match when_full {
        WhenFull::Wait | WhenFull::Refuse => 1,
        _ => 0,
    };
    known += match error {
        OutboxError::Full | OutboxError::Closed | OutboxError::Wrapped => 1,
        _ => 0,
    };
    known += match refused {
        Refused::Busy | Refused::TooManyFromPeer | Refused::TooFastFromPeer => 1,
        Refused::Closing | Refused::CannotStart(_) => 1,
        _ => 0,
    };
    known += match phase {
        Phase::Verify | Phase::Start | Phase::Make | Phase::Wrap => 1,
        Phase::Setup | Phase::Handle | Phase::Finish => 1,
        _ => 0,
    };
    known += match fault {
        Fault::Peer | Fault::Resource | Fault::Handler => 1,
        _ => 0,
    };
    known += match action {
        AcceptAction::Wait | AcceptAction::Retry | AcceptAction::Skip => 1,
        AcceptAction::BackOff | AcceptAction::Shed | AcceptAction::Fatal => 1,
        _ => 0,
    };
    known += match when {
        CloseWhen::AtOnce | CloseWhen::LoopHasEnded | CloseWhen::RequestsHaveEnded => 1,
        _ => 0,
    };
    known += match timeout {
        Timeout::Idle | Timeout::Read | Timeout::Write => 1,
        Timeout::Request | Timeout::Handshake | Timeout::Deadline => 1,
        _ => 0,
    };
    known += match activity {
        Activity::Queued | Activity::Running | Activity::Idle => 1,
        Activity::Receiving | Activity::Sending => 1,
        _ => 0,
    };
    known += match cut {
        Cut::Drained | Cut::Silent | Cut::Closed | Cut::Forced => 1,
        _ => 0,
    };
    known
}

/// Values that a program reads and never makes: new fields change nothing.
fn reads(counts: Counts, live: &LiveRequest, report: &DrainReport, who: Credentials) -> String {
    let Credentials { pid, uid, gid, .. } = who;
    format!("{} {} {report} {pid:?} {uid} {gid}", counts.accepted, live.id)
}

fn main() -> socketserver::Result<()> {
    let server = TcpServer::builder()
        .limits(limits())
        .socket_options(options())
        .hooks(Nothing)
        .mixin(Here)
        .observer(observe)
        .bind("127.0.0.1:0", || Nothing)?;
    let Limits { idle, .. } = server.limits();
    println!("{idle:?} {:?}", (others as fn(_, _, _, _) -> _, reads as fn(_, _, _, _) -> _));
    let parker: Box<dyn Parker> = Box::new(Spin);
    drop(parker);
    let builder: Builder<Never, Here> = Builder::new(Here);
    drop(builder.hooks(Nothing));
    server.serve_forever()
}
