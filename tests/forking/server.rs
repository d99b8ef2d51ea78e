//! The servers that tests start: `serve TRANSPORT ADDRESS HANDLER [OPTION..]`.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use socketserver::proxy_protocol::ProxyProtocol;
#[cfg(feature = "tls")]
use socketserver::tls::Tls;
use socketserver::transport::{
    BeforeBind, Bind, BindAddress, Tcp, Ticket, Transport, Udp, UnixDatagram, UnixStream,
};
use socketserver::{
    Address, BaseServer, Builder, Forking, Limits, SocketOptions, StreamRequest, TcpServer,
    UdpServer, UnixDatagramServer, UnixStreamServer, datagram_fn, stream_fn,
};

use crate::forked;
use crate::hooks::{LastWords, Refusable, Told, show_counts, tell, tell_of_phase};
use crate::obey::{CLOSE, Obey, SERVE, standard_descriptors};
use crate::system;

/// TCP that panics in a child, before any code of the request runs.
struct BadClose(Tcp);

impl Bind for BadClose {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> socketserver::Result<Self> {
        Tcp::unbound(address, options).map(Self)
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> socketserver::Result<Self> {
        Tcp::from_fd(fd, options).map(Self)
    }
}

impl Transport for BadClose {
    type Raw = <Tcp as Transport>::Raw;
    type Request = StreamRequest;

    fn server_bind(&self, before_bind: BeforeBind<'_>) -> socketserver::Result<()> {
        self.0.server_bind(before_bind)
    }

    fn server_activate(&self) -> socketserver::Result<()> {
        self.0.server_activate()
    }

    fn server_address(&self) -> Address {
        self.0.server_address()
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.0.fileno()
    }

    fn get_request(&self) -> std::io::Result<(Self::Raw, Address)> {
        self.0.get_request()
    }

    fn make_request(&self, raw: Self::Raw, ticket: Ticket) -> StreamRequest {
        self.0.make_request(raw, ticket)
    }

    fn close_in_child(&self) {
        panic!("closed in a child");
    }

    fn server_close(&self) {
        self.0.server_close();
    }
}

/// Spans, events and figures of a server, printed on stderr.
#[cfg(all(feature = "metrics", feature = "tracing"))]
fn traced<T: Transport>(builder: Builder<T, Forking>) -> Builder<T, Forking> {
    crate::traced::install();
    builder.metrics("forking").tracing()
}

#[cfg(not(all(feature = "metrics", feature = "tracing")))]
fn traced<T: Transport>(builder: Builder<T, Forking>) -> Builder<T, Forking> {
    builder
}

fn serve<T: Bind>(
    address: &str,
    options: &[String],
    handler: impl socketserver::handler::MakeHandler<T::Request>,
    prepare: impl FnOnce(Builder<T, Forking>) -> Builder<T, Forking>,
) -> socketserver::Result<()>
where
    T::Request: Refusable,
{
    let option = |name: &str| options.iter().any(|option| option == name);
    let number = |name: &str, default: u64| {
        let value = options.iter().find_map(|option| option.strip_prefix(name));
        value.map_or(default, |value| value.parse().expect("a number"))
    };
    let mut mixin = Forking::new().block_on_close(!option("no-block"));
    let max = number("max=", 0);
    if max > 0 {
        mixin = mixin.max_children(usize::try_from(max).unwrap());
    }
    let limits = Limits::default()
        .drain(Duration::from_millis(number("grace=", 10_000)))
        .linger(Duration::from_millis(number("linger=", 2_000)))
        .linger_bytes(usize::MAX)
        .idle(Duration::from_millis(number("idle=", 60_000)))
        .lame_duck(Duration::from_millis(number("lame-duck=", 0)))
        .per_peer(usize::try_from(number("per-peer=", 10_000)).unwrap());
    let burst = u32::try_from(number("peer-burst=", 0)).unwrap();
    let rate = (burst > 0).then(|| socketserver::Rate::per_second(1).burst(burst));
    let limits = limits.peer_rate(rate).handshakes(number("handshakes=", 1_000) as usize);
    let limits = if option("most") { most() } else { limits };
    let mut builder = prepare(Builder::<T, _>::new(mixin))
        .limits(limits)
        .hooks(Told { is_admin: option("admin"), ignores_sigchld: option("ignore-sigchld-later") });
    if option("events") {
        builder = builder.observer(tell);
    }
    if option("traced") {
        builder = traced(builder);
    }
    if option("phases") {
        builder = builder.observer(tell_of_phase).on_reload(|server| {
            say!("reload in {}", std::process::id());
            if server.live_count() > 0 { Ok(()) } else { Err("nobody is here".into()) }
        });
    }
    let copies = option("closed-at-bind").then(system::close_standard_descriptors);
    let server = std::sync::Arc::new(builder.bind(address, handler)?);
    if let Some(copies) = copies {
        let at_bind = standard_descriptors();
        system::restore_standard_descriptors(copies);
        say!("at bind: {at_bind}");
    }
    let same = std::sync::Arc::clone(&server);
    let serve_again = move |how: &str| {
        let served = match how {
            "forever" => same.serve_forever(),
            "one" => same.handle_request().map(drop),
            _ => same.run().map(drop),
        };
        served.err().map(|error| error.to_string())
    };
    let _ = SERVE.set(Box::new(serve_again));
    let same = std::sync::Arc::clone(&server);
    let _ = CLOSE.set(Box::new(move || drop(BaseServer::server_close(&*same))));
    let _leaves = Leaves;
    if option("thread") {
        // The thread has its name as soon as it runs.
        let (runs, running) = std::sync::mpsc::channel();
        let main = move || {
            runs.send(()).expect("the server waits");
            std::thread::sleep(Duration::from_secs(60));
        };
        std::thread::Builder::new().name("bystander".into()).spawn(main).expect("a thread");
        running.recv().expect("it runs");
    }
    let _siblings =
        options.iter().find_map(|option| option.strip_prefix("siblings=")).map(siblings);
    if option("subreaper") {
        system::become_subreaper();
    }
    let mut foreign = None;
    if option("foreign-child") {
        let child = std::process::Command::new("sh").args(["-c", "exit 72"]).spawn();
        foreign = Some(child.expect("a shell"));
    }
    if let Some(error) = options.iter().find_map(|option| option.strip_prefix("no-pidfds=")) {
        system::refuse_pidfds(error);
    }
    if option("ignore-sigchld") {
        system::ignore(libc::SIGCHLD);
    }
    if option("ignore-sigint") {
        system::ignore(libc::SIGINT);
    }
    for signal in [libc::SIGTERM, libc::SIGINT] {
        if option("block-signals") {
            system::block(signal);
        }
    }
    if option("term-before-run") {
        system::raise(libc::SIGTERM);
    }
    if option("block-sigchld") {
        system::block(libc::SIGCHLD);
    }
    if option("own-sigchld") {
        system::count_sigchld();
    }
    if option("unprivileged") {
        system::become_nobody();
    }
    let _last = option("last-words").then(LastWords::leave);
    println!("listening on {}", server.server_address());
    if option("partial-line") {
        // This stays in the buffer, which the child inherits.
        print!("once ");
    }
    if option("closed-before-run") {
        let _ = system::close_standard_descriptors();
    }
    let result = if option("one-by-one") {
        let turns = number("turns=", 1);
        (0..turns).try_for_each(|_| {
            let turn = server.handle_request();
            say!("active: {:?}", server.mixin().active_children());
            turn.map(drop)
        })
    } else if option("twice") {
        server.serve_forever().and_then(|()| {
            println!("first run over");
            server.serve_forever()
        })
    } else {
        server.run().map(|report| say!("report: {report}"))
    };
    if option("statuses") {
        let children = server.mixin().active_children();
        say!("statuses: {:?}", children.into_iter().map(system::status_of).collect::<Vec<_>>());
    }
    show_counts(server.context());
    say!("children: {}", server.mixin().active_children().len());
    if let Some(mut foreign) = foreign {
        let status = foreign.wait().expect("its status is still there");
        say!("foreign: {:?}", status.code());
    }
    if option("own-sigchld") {
        say!("own SIGCHLD: {}", system::SIGCHLDS.load(std::sync::atomic::Ordering::SeqCst));
    }
    if option("one-by-one") || option("twice") {
        BaseServer::server_close(&*server);
    }
    result
}

/// Servers of the same process, of every kind, that are bound and not served. Prints their addresses.
fn siblings(folder: &str) -> (TcpServer, UdpServer, UnixStreamServer, UnixDatagramServer) {
    let (stream, datagram) = (format!("{folder}/stream"), format!("{folder}/datagram"));
    let all = (
        TcpServer::bind("127.0.0.1:0", stream_fn(|_| Ok(()))).expect("a port"),
        UdpServer::bind("127.0.0.1:0", datagram_fn(|_| Ok(()))).expect("a port"),
        UnixStreamServer::bind(stream, stream_fn(|_| Ok(()))).expect("a path"),
        UnixDatagramServer::bind(datagram, datagram_fn(|_| Ok(()))).expect("a path"),
    );
    say!("siblings: {} {}", all.0.server_address(), all.1.server_address());
    all
}

/// Shows on stderr which process drops a value of the parent.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        say!("left in {}", std::process::id());
    }
}

/// All limits at their largest values, which limit nothing.
fn most() -> Limits {
    let for_ever = Duration::MAX;
    let rate = Some(socketserver::Rate::per_second(u32::MAX).burst(u32::MAX));
    Limits::default()
        .live(usize::MAX)
        .per_peer(usize::MAX)
        .accept_rate(rate)
        .peer_rate(rate)
        .line_bytes(usize::MAX)
        .outbox_bytes(usize::MAX)
        .idle(for_ever)
        .read(for_ever)
        .write(for_ever)
        .request(for_ever)
        .handshake(for_ever)
        .handshakes(usize::MAX)
        .proxy_header(for_ever)
        .linger(for_ever)
        .linger_bytes(usize::MAX)
        .drain(for_ever)
        .first_read(for_ever)
}

pub fn main(arguments: &[String]) -> ExitCode {
    let [transport, address, options @ ..] = arguments else { return ExitCode::from(2) };
    let obey = || Obey { name: String::new() };
    if let Some(mixin) = transport.strip_prefix("forked-") {
        return forked::main(mixin, address, options);
    }
    let result = match transport.as_str() {
        "tcp" => serve::<Tcp>(address, options, obey, |builder| builder),
        "tcp-behind-a-proxy" => serve::<Tcp>(address, options, obey, |builder| {
            let loopback = ProxyProtocol::from_networks(["127.0.0.1"]).expect("a network");
            builder.proxy_protocol(loopback)
        }),
        #[cfg(feature = "tls")]
        "tcp-tls" => serve::<Tcp>(address, options, obey, |builder| {
            let Some(folder) = options.iter().find_map(|option| option.strip_prefix("files="))
            else {
                return builder.tls(crate::client::localhost());
            };
            let folder = std::path::Path::new(folder);
            let tls = Tls::from_pem(folder.join("own.pem"), folder.join("own.key")).expect("files");
            let reloaded = tls.clone();
            builder.tls(tls).on_reload(move |_server| Ok(reloaded.reload()?))
        }),
        "tcp-bad-close" => serve::<BadClose>(address, options, obey, |builder| builder),
        "udp" => serve::<Udp>(address, options, obey, |builder| builder),
        "unix" => serve::<UnixStream>(address, options, obey, |builder| builder),
        "unixgram" => serve::<UnixDatagram>(address, options, obey, |builder| builder),
        _ => return ExitCode::from(2),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("ended: {error}");
            ExitCode::FAILURE
        }
    }
}
