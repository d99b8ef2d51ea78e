//! The servers that tests start: `serve TRANSPORT ADDRESS HANDLER [OPTION..]`.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use socketserver::{
    Activity, Address, BaseServer, BeforeBind, Bind, BindAddress, Builder, DatagramRequest,
    DatagramRequestHandler, Fatal, Forking, HandlerError, HandlerResult, Incoming, Limits, Refused,
    Request, ServerContext, ServerEvent, ServerHooks, SocketOptions, StreamRequest,
    StreamRequestHandler, Tcp, TcpServer, Ticket, Transport, Udp, UdpServer, UnixDatagram,
    UnixDatagramServer, UnixStream, UnixStreamServer, datagram_fn, stream_fn,
};

use crate::{ends, forked, system, wrapped};

/// What a request does, by the first word of what it is sent.
struct Obey {
    name: String,
}

impl StreamRequestHandler for Obey {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            match word {
                "echo" => writeln!(request, "{rest}")?,
                // What CPython's tests say, and want to hear.
                "hello" => writeln!(request, "{text}")?,
                "pid" => writeln!(request, "{}", std::process::id())?,
                "exit" => std::process::exit(rest.parse()?),
                "fail" => return Err("told to fail".into()),
                "panic" => panic!("told to panic"),
                "fatal" => return Err(Fatal::new(format!("the end: {rest}")).into()),
                "bad-drop" => return Err(BadDrop.into()),
                "bad-cause" => return Err(BadCause.into()),
                "fatal-late" => {
                    writeln!(request, "here")?;
                    while !request.is_stopping() {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    return Err(Fatal::new("said in the drain").into());
                }
                "stop" => request.server().shutdown_handle().shutdown(),
                "close" => CLOSE.get().expect("it is set before it serves")(),
                "close-in-thread" => {
                    std::thread::spawn(|| CLOSE.get().expect("it is set before it serves")())
                        .join()
                        .expect("it closes");
                }
                "stop-in-thread" => {
                    let handle = request.server().shutdown_handle();
                    std::thread::spawn(move || {
                        handle.shutdown();
                        handle.wait();
                    })
                    .join()
                    .expect("it waits for nobody");
                }
                "close-me" => {
                    request.server().shutdown_handle().shutdown();
                    let id = request.id();
                    assert!(request.server().close_live(id));
                    writeln!(request, "it is closed")?;
                }
                "compute" => {
                    let token = request.stop_token()?;
                    writeln!(request, "computing")?;
                    // Somebody else waits, and this one only asks.
                    let helper = token.clone();
                    let told =
                        std::thread::spawn(move || helper.wait(Some(Duration::from_secs(60))));
                    while !token.is_stopping() {
                        std::thread::yield_now();
                    }
                    writeln!(request, "told: {}", told.join().is_ok_and(|told| told))?;
                    return Ok(());
                }
                "abort" => std::process::abort(),
                "print" => print!("{rest} "),
                "upload" | "hurry" => {
                    let timeout = (word == "hurry").then_some(Duration::from_millis(100));
                    request.set_timeout(timeout);
                    // Half a request: the drain has to wait for the rest.
                    let mut bytes = vec![0; rest.parse()?];
                    writeln!(request, "ready")?;
                    request.read_exact(&mut bytes)?;
                    writeln!(request, "got {}", bytes.len())?;
                }
                "long" => {
                    let _ = std::io::stderr().write_all(b"taken\n");
                    writeln!(request, "{}", ends::answer(rest))?;
                }
                "counts" => {
                    let counts = request.server().counts();
                    writeln!(request, "{} accepted, {} ended", counts.accepted, counts.ended())?;
                }
                "outbox" => {
                    let outbox = request.outbox()?;
                    for number in 0..1_000 {
                        outbox.send(format!("{number}\n"))?;
                    }
                    if rest == "and leave" {
                        return Ok(());
                    }
                }
                "refuse" => {
                    // Whatever else the client sends.
                    writeln!(request, "no, thank you")?;
                    return Ok(());
                }
                // A program that leaves another one behind, which ends when the request has.
                "orphan" => {
                    let mut shell = std::process::Command::new("sh");
                    shell.args(["-c", "(sleep 0.1; exec sleep 0.1) >/dev/null 2>&1 &"]).status()?;
                    writeln!(request, "left")?;
                }
                "wrap" => wrapped::wrap(request)?,
                "standard" => writeln!(request, "{}", standard_descriptors())?,
                "fds" => writeln!(request, "{}", listeners())?,
                "stubborn" => {
                    writeln!(request, "here")?;
                    loop {
                        std::thread::sleep(Duration::from_secs(60));
                    }
                }
                "change" => {
                    self.name = rest.to_owned();
                    COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    writeln!(request, "{}", COUNT.load(std::sync::atomic::Ordering::SeqCst))?;
                }
                _ => writeln!(request, "what?")?,
            }
        }
        Ok(())
    }
}

/// An error that panics when it is dropped.
#[derive(Debug)]
struct BadDrop;

impl std::fmt::Display for BadDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bad drop")
    }
}

impl std::error::Error for BadDrop {}

impl Drop for BadDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// An error that panics when it is asked for its cause.
#[derive(Debug)]
struct BadCause;

impl std::fmt::Display for BadCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bad cause")
    }
}

impl std::error::Error for BadCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        panic!("asked for the cause")
    }
}

/// Closes the server, in whichever process.
static CLOSE: std::sync::OnceLock<Box<dyn Fn() + Send + Sync>> = std::sync::OnceLock::new();

static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// TCP that panics in a child, before anything of the request's own runs.
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

/// What the numbers of standard input, output and error stand for.
fn standard_descriptors() -> String {
    let found = (0..3).map(|number| match std::fs::read_link(format!("/proc/self/fd/{number}")) {
        Ok(file) => file.display().to_string(),
        Err(error) => error.to_string(),
    });
    found.collect::<Vec<_>>().join(" ")
}

/// How many listening TCP sockets this process holds.
fn listeners() -> usize {
    let is_listener = |fd: i32| {
        let mut value: libc::c_int = 0;
        let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap();
        let (level, name) = (libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
        // SAFETY: the pointers are to live locals; a number that is no descriptor is an error.
        #[allow(unsafe_code, reason = "asking every descriptor, whoever owns it")]
        let result =
            unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
        result == 0 && value == 1
    };
    (0..1024).filter(|fd| is_listener(*fd)).count()
}

impl DatagramRequestHandler for Obey {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let mut text = String::new();
        request.read_to_string(&mut text)?;
        match text.as_str() {
            "pid" => write!(request, "{}", std::process::id())?,
            "stubborn" => {
                request.reply(b"here")?;
                std::thread::sleep(Duration::from_secs(60));
            }
            _ => request.write_all(text.as_bytes())?,
        }
        Ok(())
    }
}

/// Answers those who are refused, where the request is one that can be.
trait Refusable: Request {
    fn refuse(&mut self) -> HandlerResult {
        Ok(())
    }
}

impl Refusable for StreamRequest {
    fn refuse(&mut self) -> HandlerResult {
        self.outbox()?.send("too many\n")?;
        Ok(())
    }
}

impl Refusable for DatagramRequest {
    fn refuse(&mut self) -> HandlerResult {
        self.reply(b"too many")?;
        Ok(())
    }
}

/// Shows on stderr what happens to the parent.
struct Told {
    /// With each new client it lists the others, and closes those that wait for nothing but their peers.
    is_admin: bool,
    /// With the first client, so that `run` does not know of it.
    ignores_sigchld: bool,
}

impl Told {
    fn look_after(&self, server: &ServerContext) {
        for live in server.live() {
            if live.activity == Activity::Idle {
                let closed = server.close_live(live.id);
                eprintln!("admin: {live}; closed: {closed}");
            }
        }
    }
}

impl<R: Refusable> ServerHooks<R> for Told {
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        static FIRST: std::sync::Once = std::sync::Once::new();
        if self.ignores_sigchld {
            FIRST.call_once(|| system::ignore(libc::SIGCHLD));
        }
        if self.is_admin {
            self.look_after(incoming.server());
        }
        Ok(true)
    }

    fn overflow(&self, request: &mut R, _why: &Refused) -> HandlerResult {
        request.refuse()
    }

    fn handle_error(&self, failure: &socketserver::Failure<'_>) {
        // In one write: the lines of several processes meet.
        let line = format!("handle_error in {}: {failure}\n", std::process::id());
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn service_actions(&self) {
        let _ = std::io::stderr().write_all(b"service_actions\n");
    }
}

fn serve<T: Bind, Kind: 'static>(
    address: &str,
    options: &[String],
    handler: impl socketserver::MakeHandler<T::Request, Kind>,
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
    let limits = Limits {
        drain: Duration::from_millis(number("grace=", 10_000)),
        linger: Duration::from_millis(number("linger=", 2_000)),
        linger_bytes: usize::MAX,
        idle: Duration::from_millis(number("idle=", 60_000)),
        per_peer: usize::try_from(number("per-peer=", 10_000)).unwrap(),
        ..Limits::default()
    };
    let limits = if option("most") { most() } else { limits };
    let mut builder = Builder::<T, _>::new(mixin)
        .limits(limits)
        .hooks(Told { is_admin: option("admin"), ignores_sigchld: option("ignore-sigchld-later") });
    if option("events") {
        builder = builder.observer(tell);
    }
    let copies = option("closed-at-bind").then(system::close_standard_descriptors);
    let server = std::sync::Arc::new(builder.bind(address, handler)?);
    if let Some(copies) = copies {
        let at_bind = standard_descriptors();
        system::restore_standard_descriptors(copies);
        eprintln!("at bind: {at_bind}");
    }
    let same = std::sync::Arc::clone(&server);
    let _ = CLOSE.set(Box::new(move || drop(BaseServer::server_close(&*same))));
    let _leaves = Leaves;
    if option("thread") {
        // It has its name as soon as it runs.
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
        become_nobody();
    }
    let _last = option("last-words").then(LastWords::leave);
    println!("listening on {}", server.server_address());
    if option("partial-line") {
        // Left in the buffer, for the child to inherit.
        print!("once ");
    }
    if option("closed-before-run") {
        let _ = system::close_standard_descriptors();
    }
    let result = if option("one-by-one") {
        let turns = number("turns=", 1);
        (0..turns).try_for_each(|_| {
            let turn = server.handle_request();
            eprintln!("active: {:?}", server.mixin().active_children());
            turn.map(drop)
        })
    } else if option("twice") {
        server.serve_forever().and_then(|()| {
            println!("first run over");
            server.serve_forever()
        })
    } else {
        server.run().map(|report| eprintln!("report: {report}"))
    };
    if option("statuses") {
        let children = server.mixin().active_children();
        eprintln!("statuses: {:?}", children.into_iter().map(status_of).collect::<Vec<_>>());
    }
    show_counts(server.context());
    eprintln!("children: {}", server.mixin().active_children().len());
    if let Some(mut foreign) = foreign {
        let status = foreign.wait().expect("its status is still there");
        eprintln!("foreign: {:?}", status.code());
    }
    if option("own-sigchld") {
        eprintln!("own SIGCHLD: {}", system::SIGCHLDS.load(std::sync::atomic::Ordering::SeqCst));
    }
    if option("one-by-one") || option("twice") {
        BaseServer::server_close(&*server);
    }
    result
}

/// Servers of the same process, of every kind, that are bound and not served. Their addresses are told.
fn siblings(folder: &str) -> (TcpServer, UdpServer, UnixStreamServer, UnixDatagramServer) {
    let (stream, datagram) = (format!("{folder}/stream"), format!("{folder}/datagram"));
    let all = (
        TcpServer::bind("127.0.0.1:0", stream_fn(|_| Ok(()))).expect("a port"),
        UdpServer::bind("127.0.0.1:0", datagram_fn(|_| Ok(()))).expect("a port"),
        UnixStreamServer::bind(stream, stream_fn(|_| Ok(()))).expect("a path"),
        UnixDatagramServer::bind(datagram, datagram_fn(|_| Ok(()))).expect("a path"),
    );
    eprintln!("siblings: {} {}", all.0.server_address(), all.1.server_address());
    all
}

/// Shows on stderr which process comes to the end of what the parent has begun.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        let line = format!("left in {}\n", std::process::id());
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Shows on stderr what the observer is told, and in which process.
fn tell(event: &ServerEvent<'_>) {
    let what = match event {
        ServerEvent::RequestStarted { id, client_address, .. } => {
            format!("{id} of {client_address} started")
        }
        ServerEvent::RequestEnded { id, client_address, reason, bytes_in, bytes_out, .. } => {
            eprintln!("bytes of {id}: {bytes_in} in, {bytes_out} out");
            format!("{id} of {client_address} ended {reason:?}")
        }
        _ => return,
    };
    // In one write: the children write to the same place.
    let line = format!("event in {}: {what}\n", std::process::id());
    std::io::stderr().write_all(line.as_bytes()).expect("stderr");
}

fn show_counts(context: &ServerContext) {
    let counts = context.counts();
    eprintln!("counts: {counts:?}");
    eprintln!("balance: {} accepted, {} ended", counts.accepted, counts.ended());
}

/// Says that something of this process's comes to its end, and in which process it does.
struct LastWords {
    of: &'static str,
}

impl LastWords {
    /// Has the process end with those of an exit function, of a thread's own value, and of a value in `main`.
    fn leave() -> Self {
        extern "C" fn at_exit() {
            drop(LastWords { of: "an exit function" });
        }
        thread_local! {
            static OF_THE_THREAD: LastWords = const { LastWords { of: "a thread's own" } };
        }
        OF_THE_THREAD.with(|_made| ());
        // SAFETY: the function is there as long as the process is.
        #[allow(unsafe_code, reason = "std has no exit functions")]
        let result = unsafe { libc::atexit(at_exit) };
        assert_eq!(result, 0);
        Self { of: "main's" }
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let line = format!("last words in {}: {}\n", std::process::id(), self.of);
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// All limits at their largest, which is none at all.
fn most() -> Limits {
    let for_ever = Duration::MAX;
    let rate = Some(socketserver::Rate { per_second: u32::MAX, burst: u32::MAX });
    Limits {
        live: usize::MAX,
        per_peer: usize::MAX,
        accept_rate: rate,
        peer_rate: rate,
        line_bytes: usize::MAX,
        outbox_bytes: usize::MAX,
        idle: for_ever,
        read: for_ever,
        write: for_ever,
        request: Some(for_ever),
        handshake: for_ever,
        linger: for_ever,
        linger_bytes: usize::MAX,
        drain: for_ever,
        first_read: for_ever,
    }
}

/// Waits for a child in the place of its server, and tells what it has left with: none, if a signal ended it.
fn status_of(child: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the pointer is to a live int.
    #[allow(unsafe_code, reason = "std waits only for what it has started itself")]
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "it has been waited for already");
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// As another user, with no more processes to be had: root is not bound by the limit.
#[allow(unsafe_code, reason = "setrlimit and setuid have no safe form in std")]
fn become_nobody() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure; the rest are numbers.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const none), 0);
        assert_eq!(libc::setuid(65_534), 0);
    }
}

pub fn main(arguments: &[String]) -> ExitCode {
    let [transport, address, options @ ..] = arguments else { return ExitCode::from(2) };
    let obey = || Obey { name: String::new() };
    if let Some(mixin) = transport.strip_prefix("forked-") {
        return forked::main(mixin, address, options);
    }
    let result = match transport.as_str() {
        "tcp" => serve::<Tcp, _>(address, options, obey),
        "tcp-bad-close" => serve::<BadClose, _>(address, options, obey),
        "udp" => serve::<Udp, _>(address, options, obey),
        "unix" => serve::<UnixStream, _>(address, options, obey),
        "unixgram" => serve::<UnixDatagram, _>(address, options, obey),
        _ => return ExitCode::from(2),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ended: {error}");
            ExitCode::FAILURE
        }
    }
}
