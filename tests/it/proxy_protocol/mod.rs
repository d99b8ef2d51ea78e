//! The PROXY protocol: the client's true address, and nobody else's.

mod compare;
mod differential;
mod faults;
mod headers;
mod limits;
#[cfg(feature = "tls")]
mod over_tls;
mod real;
mod serving;

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use socketserver::hooks::Failure;
use socketserver::mixin::Mixin;
use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::proxy_protocol::ProxyProtocol;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, HandlerResult, Limits, ServerHooks, StreamRequest, stream_fn,
};

use crate::handlers::Diary;
use crate::support::{connect, inet};

const HOUR: Duration = Duration::from_secs(3_600);

/// The signature of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 1.
const V1: &[u8] = b"PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\n";

/// The header of version 2 for the same client, with these TLVs.
fn v2(tlvs: &[u8]) -> Vec<u8> {
    let addresses = [203, 0, 113, 9, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
    whole(0x21, 0x11, &[&addresses, tlvs].concat())
}

/// A header of version 2, with its length.
fn whole(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// A TLV.
fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind][..], &length, value].concat()
}

/// Limits that do not end a test before its own patience does.
fn patient() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR).proxy_header(HOUR)
}

/// Trusts all of the loopback.
fn trusting() -> ProxyProtocol {
    ProxyProtocol::from_networks(["127.0.0.0/8", "::1"]).unwrap()
}

/// Sends each line back, followed by the addresses of the client and of the proxy.
fn who(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while request.next_line(&mut line)?.is_some() {
        let proxy = request.proxy().map(|proxy| proxy.proxy_address().ip().unwrap().to_string());
        let proxy = proxy.unwrap_or_else(|| "nobody".to_owned());
        writeln!(request, "{line} {} by {proxy}", request.client_address())?;
    }
    Ok(())
}

/// Hands failures to the test.
struct Failures {
    to: Sender<String>,
}

impl ServerHooks<StreamRequest> for Failures {
    fn handle_error(&self, failure: &Failure<'_>) {
        assert!(failure.is_quiet(), "{failure}");
        let _ = self.to.send(failure.to_string());
    }
}

/// A line for each event.
#[derive(Clone, Default)]
struct Told {
    diary: Diary,
}

impl Told {
    fn observer(&self) -> impl Fn(&ServerEvent<'_>) + Send + Sync + 'static {
        let diary = self.diary.clone();
        move |event| match event {
            ServerEvent::RequestStarted { client_address, .. } => {
                diary.note(format!("started {}", client_address.ip().unwrap()));
            }
            ServerEvent::ClientKnown { client_address, proxy_address, .. } => {
                diary.note(format!("known {client_address} by {}", proxy_address.ip().unwrap()));
            }
            ServerEvent::RequestEnded { client_address, proxy_address, reason, .. } => {
                let proxy = proxy_address.map(|proxy| proxy.ip().unwrap());
                let client = client_address.ip().unwrap();
                diary.note(format!("ended {client} by {proxy:?}: {reason:?}"));
            }
            ServerEvent::LimitReached { limit } => diary.note(format!("{limit:?}")),
            _ => {}
        }
    }

    /// How many requests ended for this reason.
    fn ended(&self, reason: CloseReason) -> usize {
        let end = format!(": {reason:?}");
        self.diary.lines().iter().filter(|line| line.ends_with(&end)).count()
    }
}

/// A server of [`who`] behind proxies.
struct Behind<M: Mixin> {
    server: BackgroundServer<Tcp, M>,
    failures: Receiver<String>,
    told: Told,
}

fn behind<M: Mixin + 'static>(mixin: M, limits: Limits, from: ProxyProtocol) -> Behind<M> {
    let ((to, failures), told) = (channel(), Told::default());
    let server = Builder::<Tcp, _>::new(mixin)
        .limits(limits)
        .hooks(Failures { to })
        .observer(told.observer())
        .proxy_protocol(from)
        .bind("127.0.0.1:0", stream_fn(who))
        .unwrap();
    Behind { server: server.serve_in_background().unwrap(), failures, told }
}

impl<M: Mixin> Behind<M> {
    fn connect(&self) -> TcpStream {
        connect(inet(&*self.server))
    }
}
