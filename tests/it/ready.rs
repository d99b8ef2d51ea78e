//! The hooks for a beginning and an end: `ready` before anything is served, `stopping` before the close; and servers
//! that are shared while they run with others.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socketserver::mixin::Mixin;
use socketserver::monitor::ServerEvent;
use socketserver::transport::Tcp;
use socketserver::{
    BaseServer, Builder, Forking, HandlerResult, Inline, Pool, ServerContext, ServerHooks,
    StreamRequest, TcpServer, Threading, ThreadingTcpServer, UdpServer, datagram_fn, run_all,
    stream_fn,
};

use crate::handlers::Diary;
use crate::support::{
    SOON, StopOnPanic, alone, connect, exchange, inet, read_to_end, soon, system,
};

/// Notes the hooks that are called, and can stop its own process by a signal in `ready`.
struct Moments {
    diary: Diary,
    signals: bool,
}

impl ServerHooks for Moments {
    fn ready(&self, server: &ServerContext) {
        assert_eq!(server.live_count(), 0);
        self.diary.note("hook: ready");
        if self.signals {
            system::send_signal(std::process::id(), libc::SIGTERM);
        }
    }

    fn stopping(&self, server: &ServerContext) {
        assert!(!server.is_stopping(), "it has not begun yet");
        self.diary.note("hook: stopping");
    }
}

fn builder<M: Mixin>(mixin: M, diary: &Diary, signals: bool) -> Builder<Tcp, M> {
    let told = diary.clone();
    TcpServer::builder().mixin(mixin).hooks(Moments { diary: diary.clone(), signals }).observer(
        move |event| match event {
            ServerEvent::Ready { .. } | ServerEvent::Stopping { .. } => {
                let words = event.to_string();
                told.note(words.split(" at ").next().unwrap().to_owned());
            }
            ServerEvent::RequestStarted { .. } => told.note("request"),
            _ => {}
        },
    )
}

const ALL: [&str; 5] = ["ready", "hook: ready", "request", "stopping", "hook: stopping"];

fn answer(request: &mut StreamRequest) -> HandlerResult {
    Ok(writeln!(request, "here")?)
}

fn a_run_says_when_it_begins_and_when_it_ends<M: Mixin + 'static>(mixin: M) {
    let diary = Diary::default();
    let server = builder(mixin, &diary, false).bind("127.0.0.1:0", stream_fn(answer)).unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"here\n");
    server.server_close();
    // A second close calls no hook.
    server.stop().unwrap();
    assert_eq!(diary.lines(), ALL);
}

#[test]
fn a_run_says_when_it_begins_and_when_it_ends_inline() {
    a_run_says_when_it_begins_and_when_it_ends(Inline);
}

#[test]
fn a_run_says_when_it_begins_and_when_it_ends_threading() {
    a_run_says_when_it_begins_and_when_it_ends(Threading::new());
}

#[test]
fn a_run_says_when_it_begins_and_when_it_ends_pool() {
    a_run_says_when_it_begins_and_when_it_ends(Pool::new(2));
}

#[test]
fn who_is_told_that_a_run_is_ready_can_stop_it_by_a_signal() {
    alone("ready::who_is_told_that_a_run_is_ready_can_stop_it_by_a_signal", || {
        let diary = Diary::default();
        let server =
            builder(Threading::new(), &diary, true).bind("127.0.0.1:0", stream_fn(answer)).unwrap();
        assert!(server.run().unwrap().is_clean());
        assert_eq!(diary.lines(), ["ready", "hook: ready", "stopping", "hook: stopping"]);
    });
}

#[test]
fn a_server_runs_beside_others_and_is_still_asked() {
    alone("ready::a_server_runs_beside_others_and_is_still_asked", || {
        let hello = stream_fn(|request: &mut StreamRequest| {
            let mut line = String::new();
            let text = request.next_line(&mut line)?.unwrap_or_default();
            Ok(writeln!(request, "{text}")?)
        });
        let server = Arc::new(TcpServer::bind("127.0.0.1:0", hello).unwrap());
        let other = UdpServer::bind("127.0.0.1:0", datagram_fn(|_request| Ok(()))).unwrap();
        let servers: Vec<Box<dyn BaseServer>> =
            vec![Box::new(Arc::clone(&server)), Box::new(Box::new(other))];
        let handles: Vec<_> = servers.iter().map(BaseServer::shutdown_handle).collect();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let _stop = servers.iter().map(|server| StopOnPanic(&**server)).collect::<Vec<_>>();
                // `TcpStream::connect` takes the server's address as it is.
                let mut client = TcpStream::connect(server.server_address()).unwrap();
                assert_eq!(exchange(&mut client, "hello"), "hello\n");
                handles.iter().for_each(socketserver::ShutdownHandle::shutdown);
            });
            let reports = run_all(&servers, Duration::from_secs(10), || ()).unwrap();
            assert_eq!(reports.len(), 2);
            asking.join().unwrap();
        });
        assert_eq!(server.context().counts().completed, 1);
        assert!(!server.forks());
    });
}

/// Panics in the accept loop, once the other server has served.
struct PanicsWhen(Arc<AtomicBool>);

impl ServerHooks for PanicsWhen {
    fn service_actions(&self) {
        assert!(!self.0.load(Ordering::SeqCst), "on purpose");
    }
}

#[test]
fn a_panic_in_the_loop_of_one_server_ends_those_beside_it() {
    alone("ready::a_panic_in_the_loop_of_one_server_ends_those_beside_it", || {
        let panics = Arc::new(AtomicBool::new(false));
        let hooks = PanicsWhen(Arc::clone(&panics));
        let bad = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", stream_fn(answer)).unwrap();
        let good = Arc::new(ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(answer)).unwrap());
        let (to_bad, beside) = (inet(&bad), Arc::clone(&good));
        let servers: Vec<Box<dyn BaseServer>> = vec![Box::new(Box::new(bad)), Box::new(good)];
        let run = std::thread::spawn(move || run_all(&servers, SOON, || ()).map(drop));
        assert_eq!(read_to_end(&mut connect(inet(&*beside))), b"here\n");
        panics.store(true, Ordering::SeqCst);
        // This connection wakes the loop.
        let _client = TcpStream::connect(to_bad);
        let payload = soon("the run", move || run.join()).expect_err("it goes on in `run_all`");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"on purpose"));
        assert!(beside.context().is_stopping());
    });
}

#[test]
fn an_address_that_is_none_of_the_internet_says_so_to_a_client() {
    let address = socketserver::Address::Unix("/tmp/s".into());
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), "/tmp/s is no internet address");
}

#[test]
fn an_error_of_the_program_is_one_of_the_crate_by_its_sign() {
    fn main() -> socketserver::Result<()> {
        std::fs::File::open("/nowhere/at/all")?;
        Ok(())
    }
    let error = main().unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound));
    assert_eq!(error.to_string(), "No such file or directory (os error 2)");
}

#[test]
fn a_server_that_forks_among_several_is_refused_before_anything_is_announced() {
    let forking = TcpServer::builder().mixin(Forking::new());
    let forking = forking.bind("127.0.0.1:0", stream_fn(answer)).unwrap();
    let beside = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(answer)).unwrap();
    let name = forking.server_address().to_string();
    let servers: Vec<Box<dyn BaseServer>> = vec![Box::new(Box::new(beside)), Box::new(forking)];
    let mut announced = false;
    let error = run_all(&servers, SOON, || announced = true).unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("alone in its process"), "{error}");
    assert!(!announced);
}
