//! Wrapped connections: which bytes are sent in the open, who is at fault when a handshake fails, and the limits of a
//! plain stream over a wrapped one.

mod deaf;
pub mod framed;
mod late_input;
mod open;
mod rows;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::hooks::{Failure, Fault, Phase};
use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerResult, Limits, ServerHooks, StreamRequest, Threading,
    ThreadingTcpServer, stream_fn,
};

use crate::support::{connect, eventually, exchange, inet, read_line};
use framed::{Client, Framed};

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(100);

/// Limits under which nothing ends by itself.
fn patient() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR).handshake(HOUR)
}

/// How a connection is wrapped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Not at all.
    Plain,
    /// By the hook.
    Hook,
    /// By the hook, twice.
    Twice,
    /// By the handler, in the middle of a request.
    Middle,
    /// By the server's own TLS.
    #[cfg(feature = "tls")]
    Tls,
    /// By TLS in the middle of a request.
    #[cfg(feature = "tls")]
    StartTls,
}

impl Way {
    /// Whether the wrapper comes in the middle of a request.
    fn is_late(self) -> bool {
        #[cfg(feature = "tls")]
        if self == Self::StartTls {
            return true;
        }
        self == Self::Middle
    }
}

#[cfg(not(feature = "tls"))]
const WAYS: [Way; 4] = [Way::Plain, Way::Hook, Way::Twice, Way::Middle];
#[cfg(feature = "tls")]
const WAYS: [Way; 6] = [Way::Plain, Way::Hook, Way::Twice, Way::Middle, Way::Tls, Way::StartTls];

/// Wraps in the middle of a request.
fn wrap_late(way: Way, request: &mut StreamRequest) -> HandlerResult {
    #[cfg(feature = "tls")]
    if way == Way::StartTls {
        return Ok(request.start_tls(&crate::tls::client::localhost())?);
    }
    assert_eq!(way, Way::Middle);
    wrap(request)
}

fn wrap(request: &mut StreamRequest) -> HandlerResult {
    Ok(request.wrap_stream(|inner| Ok(Box::new(Framed::accept(inner)?)))?)
}

/// How a request has ended, and its report.
#[derive(Clone, Debug, PartialEq)]
struct End {
    reason: CloseReason,
    told: Option<(Phase, Fault)>,
    /// Whether nothing of it is printed.
    quiet: bool,
    bytes: (u64, u64),
}

type Wrap = Box<dyn Fn(&mut StreamRequest) -> HandlerResult + Send + Sync>;

/// Hooks that wrap, and note how requests end.
#[derive(Clone)]
struct Wraps {
    wrap: Arc<Wrap>,
    told: Arc<Mutex<Option<(Phase, Fault, bool)>>>,
    ends: Arc<Mutex<Vec<End>>>,
}

impl Wraps {
    fn new(wrap: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static) -> Self {
        let wrap = Arc::new(Box::new(wrap) as Wrap);
        Self { wrap, told: Arc::default(), ends: Arc::default() }
    }

    fn observer(&self) -> impl Fn(&ServerEvent<'_>) + Send + Sync + 'static {
        let wraps = self.clone();
        move |event| {
            if let ServerEvent::RequestEnded { reason, bytes_in, bytes_out, .. } = event {
                let told = wraps.told.lock().unwrap().take();
                let quiet = told.is_none_or(|(_, _, quiet)| quiet);
                let told = told.map(|(phase, fault, _)| (phase, fault));
                let bytes = (*bytes_in, *bytes_out);
                wraps.ends.lock().unwrap().push(End { reason: *reason, told, quiet, bytes });
            }
        }
    }
}

impl ServerHooks<StreamRequest> for Wraps {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        (self.wrap)(request)
    }

    fn handle_error(&self, failure: &Failure<'_>) {
        *self.told.lock().unwrap() = Some((failure.phase(), failure.fault(), failure.is_quiet()));
    }
}

/// A server whose connections are wrapped, and the ends of its requests.
struct Served {
    way: Way,
    server: BackgroundServer<Tcp, Threading>,
    ends: Arc<Mutex<Vec<End>>>,
}

fn serve(
    way: Way,
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> Served {
    let hooks = move |request: &mut StreamRequest| match way {
        Way::Hook => wrap(request),
        Way::Twice => wrap(request).and_then(|()| wrap(request)),
        _ => Ok(()),
    };
    serve_with(way, limits, hooks, move |request| {
        if way.is_late() {
            let mut line = String::new();
            assert_eq!(request.next_line(&mut line)?, Some("STARTTLS"));
            request.write_all(b"go ahead\n")?;
            wrap_late(way, request)?;
            request.between_requests();
        }
        handle(request)
    })
}

fn serve_with(
    way: Way,
    limits: Limits,
    wrap: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> Served {
    let hooks = Wraps::new(wrap);
    let ends = Arc::clone(&hooks.ends);
    let observer = hooks.observer();
    let server = ThreadingTcpServer::builder().limits(limits).hooks(hooks).observer(observer);
    #[cfg(feature = "tls")]
    let server = if way == Way::Tls { server.tls(crate::tls::client::localhost()) } else { server };
    let server = server.bind("127.0.0.1:0", stream_fn(handle)).unwrap();
    Served { way, server: server.serve_in_background().unwrap(), ends }
}

impl Served {
    fn bare(&self) -> std::net::TcpStream {
        connect(inet(&*self.server))
    }

    /// A client that has come through the handshake.
    fn client(&self) -> Client {
        let mut bare = self.bare();
        if self.way.is_late() {
            assert_eq!(exchange(&mut bare, "STARTTLS"), "go ahead\n");
        }
        match self.way {
            Way::Plain => Client::new(bare, 0),
            Way::Hook | Way::Middle => Client::new(bare, 1),
            Way::Twice => Client::new(bare, 2),
            #[cfg(feature = "tls")]
            Way::Tls | Way::StartTls => Client::over_tls(bare),
        }
    }

    /// The end of the first request that ends.
    fn end(&self) -> End {
        eventually("a request ends", || !self.ends.lock().unwrap().is_empty());
        self.ends.lock().unwrap()[0].clone()
    }

    #[track_caller]
    fn assert_ends_as(&self, reason: CloseReason) {
        assert_eq!(self.end().reason, reason, "{:?}", self.way);
    }

    /// The only request that is alive.
    fn live(&self) -> u64 {
        let context = self.server.context();
        eventually("there is one request", || context.live_count() == 1);
        context.live()[0].id
    }
}

/// Reads a line that says how far the handler has come.
fn read_word(client: &mut Client) {
    assert_eq!(read_line(client), "here\n");
}
