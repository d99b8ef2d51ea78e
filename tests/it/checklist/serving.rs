//! Rows 40 to 51, and 53: the loop, how it stops, and its cost when nothing happens.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::mixin::Mixin;
use socketserver::monitor::{AcceptOutcome, Counts};
use socketserver::transport::UnixStream;
use socketserver::{
    BaseServer, Builder, Inline, Limits, Pool, PoolTcpServer, Server, ServerHooks, ShutdownHandle,
    TcpServer, Threading, ThreadingTcpServer, ThreadingUnixStreamServer, UdpServer,
    UnixStreamServer, datagram_fn, stream_fn,
};

use super::matrix::memory::Memory;
use crate::checklist::one_of_each_transport;
use crate::handlers::{Diary, Echo, OneLine, Silent, held};
use crate::support::{
    SOON, connect, connect_any, eventually, exchange, folder, inet, read_line, read_to_end,
    receive, serve, soon, udp_client,
};

const LOCAL: &str = "127.0.0.1:0";
const HOUR: Duration = Duration::from_secs(3_600);

/// Notes the actions of the loop.
struct Actions(Diary);

impl<R> ServerHooks<R> for Actions {
    fn service_actions(&self) {
        self.0.note("service_actions");
    }

    fn handle_timeout(&self) {
        self.0.note("handle_timeout");
    }
}

fn counts(server: &impl BaseServer) -> Counts {
    server.context().counts()
}

/// The result of a run, which is expected to end.
fn ended(result: &Receiver<socketserver::Result<()>>) -> socketserver::Result<()> {
    result.recv_timeout(SOON).expect("the run ends")
}

/// Stops a server in a thread, and waits until it has stopped.
fn shut_down<S: BaseServer + 'static>(server: &Arc<S>) {
    let server = Arc::clone(server);
    soon("a shutdown", move || server.shutdown());
}

// Row 40.

#[test]
fn row_040_no_tick_is_the_default() {
    let (quiet, ticks) = (Diary::default(), Diary::default());
    let server = TcpServer::builder().hooks(Actions(quiet.clone()));
    let server = server.bind(LOCAL, || OneLine).unwrap().serve_in_background().unwrap();
    let other =
        TcpServer::builder().hooks(Actions(ticks.clone())).poll_interval(Duration::from_millis(5));
    let _other = other.bind(LOCAL, || OneLine).unwrap().serve_in_background().unwrap();
    eventually("the one that was asked to ticks", || ticks.lines().len() >= 20);
    assert!(quiet.lines().is_empty());
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
}

#[test]
#[cfg_attr(under_green, ignore = "it is about `Inline`, whose loop runs the request itself")]
fn row_040_service_actions_runs_after_every_request() {
    let (folder, diary) = (folder(), Diary::default());
    let handled = diary.clone();
    let handler = stream_fn(move |_request| {
        handled.note("handle");
        Ok(())
    });
    let server = UnixStreamServer::builder().hooks(Actions(diary.clone()));
    let server = server.bind(folder.path().join("s"), handler).unwrap();
    // All clients are there at once, so that the loop never waits between two of them.
    let mut clients: Vec<_> = (0..3).map(|_| connect_any(&server.server_address())).collect();
    let server = server.serve_in_background().unwrap();
    for client in &mut clients {
        assert!(read_to_end(&mut **client).is_empty());
    }
    soon("a stop", move || server.stop()).unwrap();
    let one = ["handle", "service_actions"];
    assert_eq!(diary.lines(), [one, one, one].concat());
}

#[test]
fn row_040_a_tick_comes_also_while_there_is_no_room() {
    let diary = Diary::default();
    let (handler, holder) = held();
    let server = ThreadingTcpServer::builder()
        .hooks(Actions(diary.clone()))
        .limits(Limits::default().live(1))
        .poll_interval(Duration::from_millis(5));
    let server = server.bind(LOCAL, move || handler.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut first = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let _waiting = connect(inet(&*server));
    let before = diary.lines().len();
    eventually("ticks", || diary.lines().len() >= before + 10);
    assert_eq!(counts(&*server).accepted, 1);
    drop(holder);
    assert_eq!(read_line(&mut first), "released\n");
}

#[test]
fn row_040_a_tick_comes_also_while_requests_do() {
    let diary = Diary::default();
    let hooks = Actions(diary.clone());
    let server = UdpServer::builder().hooks(hooks).poll_interval(Duration::from_millis(1));
    // The handler itself sends the next datagram, so that there is always a next request.
    let handler = datagram_fn(|request| {
        thread::sleep(Duration::from_millis(1));
        let to = request.server().server_address().as_inet().unwrap();
        UdpSocket::bind(LOCAL)?.send_to(b"again", to)?;
        Ok(())
    });
    let server = server.bind(LOCAL, handler).unwrap().serve_in_background().unwrap();
    UdpSocket::bind(LOCAL).unwrap().send_to(b"go", inet(&*server)).unwrap();
    eventually("requests", || counts(&*server).completed >= 50);
    let served = counts(&*server).accepted;
    soon("a stop", move || server.stop()).unwrap();
    // There is one action for each request, and the ticks of the clock add more.
    let actions = diary.lines().len() as u64;
    assert!(actions > served, "{actions} for {served} requests");
}

// Row 41.

#[test]
fn row_041_serve_forever_ignores_the_timeout() {
    let diary = Diary::default();
    let server = TcpServer::builder()
        .hooks(Actions(diary.clone()))
        .timeout(Duration::from_millis(1))
        .poll_interval(Duration::from_millis(10));
    let server = Arc::new(server.bind(LOCAL, || OneLine).unwrap());
    let result = serve(&server);
    eventually("many times the timeout", || diary.lines().len() >= 10);
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    assert!(result.try_recv().is_err());
    assert!(!diary.contains("handle_timeout"));
    shut_down(&server);
    ended(&result).unwrap();
}

// Row 42.

fn twenty_servers<M: Mixin + Default + 'static>() {
    let servers: Vec<_> = (0..20)
        .map(|_| {
            Arc::new(Server::<socketserver::transport::Tcp, M>::bind(LOCAL, || Silent).unwrap())
        })
        .collect();
    let runs: Vec<_> = servers.iter().map(serve).collect();
    servers.iter().for_each(shut_down);
    for run in runs {
        ended(&run).unwrap();
    }
}

#[test]
fn row_042_twenty_servers_that_start_and_stop_at_once_all_stop_inline() {
    twenty_servers::<Inline>();
}

#[test]
fn row_042_twenty_servers_that_start_and_stop_at_once_all_stop_threading() {
    twenty_servers::<Threading>();
}

#[test]
fn row_042_twenty_servers_that_start_and_stop_at_once_all_stop_pool() {
    twenty_servers::<Pool>();
}

// Row 43.

#[test]
#[cfg_attr(under_green, ignore = "it is about `Inline`, whose loop runs the request itself")]
fn row_043_shutdown_returns_when_the_loop_has_ended() {
    let (handler, holder) = held();
    let server = Arc::new(TcpServer::bind(LOCAL, move || handler.clone()).unwrap());
    let run = serve(&server);
    let mut client = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();

    let (returned, returns) = channel();
    let stopping = Arc::clone(&server);
    thread::spawn(move || {
        stopping.shutdown();
        let _ = returned.send(());
    });
    let handle = server.shutdown_handle();
    eventually("the stop is asked for", || handle.is_shutdown());
    // The handler runs in the loop. Nothing announces that the wait goes on.
    assert!(returns.recv_timeout(Duration::from_millis(100)).is_err());
    assert!(!handle.wait_timeout(Duration::ZERO));
    assert!(run.try_recv().is_err());

    holder.release.send(()).unwrap();
    returns.recv_timeout(SOON).unwrap();
    assert!(handle.wait_timeout(SOON));
    assert_eq!(read_line(&mut client), "released\n");
    ended(&run).unwrap();
}

#[test]
fn row_043_when_shutdown_has_returned_the_next_run_can_begin() {
    let server = TcpServer::builder().timeout(Duration::ZERO).bind(LOCAL, || OneLine).unwrap();
    let server = Arc::new(server);
    let handle = server.shutdown_handle();
    for _ in 0..200 {
        let run = serve(&server);
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
        handle.shutdown();
        assert!(handle.wait_timeout(SOON));
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::TimedOut);
        ended(&run).unwrap();
    }
}

// Row 44.

#[test]
#[cfg_attr(under_green, ignore = "it is about `Inline`, whose loop runs the request itself")]
fn row_044_a_connection_pending_at_shutdown_is_served_by_the_next_run() {
    let folder = folder();
    let (handler, holder) = held();
    let server = UnixStreamServer::bind(folder.path().join("s"), move || handler.clone());
    let server = Arc::new(server.unwrap());
    let run = serve(&server);
    let mut first = connect_any(&server.server_address());
    holder.started.recv_timeout(SOON).unwrap();
    let mut second = connect_any(&server.server_address());
    server.shutdown_handle().shutdown();
    holder.release.send(()).unwrap();
    ended(&run).unwrap();
    assert_eq!(read_line(&mut *first), "released\n");
    assert_eq!(counts(&*server).accepted, 1);

    let run = serve(&server);
    holder.started.recv_timeout(SOON).unwrap();
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut *second), "released\n");
    assert_eq!(counts(&*server).accepted, 2);
    shut_down(&server);
    ended(&run).unwrap();
}

#[test]
#[cfg_attr(under_green, ignore = "it is about `Inline`, whose loop runs the request itself")]
fn row_044_datagrams_received_and_not_yet_served_are_served_by_the_next_run() {
    let (handler, holder) = held();
    let server = Arc::new(UdpServer::bind(LOCAL, move || handler.clone()).unwrap());
    let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind(LOCAL).unwrap()).collect();
    // All datagrams are there before the run, so that one call receives them all.
    for client in &clients {
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(b"hello", inet(&*server)).unwrap();
    }
    let run = serve(&server);
    holder.started.recv_timeout(SOON).unwrap();
    server.shutdown_handle().shutdown();
    holder.release.send(()).unwrap();
    ended(&run).unwrap();
    assert_eq!(counts(&*server).accepted, 1);

    let run = serve(&server);
    drop(holder);
    for client in &clients {
        assert_eq!(receive(client).len(), b"released".len());
    }
    shut_down(&server);
    ended(&run).unwrap();
    assert_eq!(counts(&*server).accepted, 3);
}

// Row 45.

#[test]
fn row_045_shutdown_closes_neither_the_listener_nor_running_requests() {
    let folder = folder();
    let (handler, holder) = held();
    let server = ThreadingUnixStreamServer::bind(folder.path().join("s"), move || handler.clone());
    let server = Arc::new(server.unwrap());
    let run = serve(&server);
    let mut running = connect_any(&server.server_address());
    holder.started.recv_timeout(SOON).unwrap();
    shut_down(&server);
    ended(&run).unwrap();

    assert!(server.fileno().is_some());
    assert_eq!(server.context().live_count(), 1);
    assert!(!server.context().is_stopping());
    let mut pending = connect_any(&server.server_address());
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut *running), "released\n");

    // The listener works as before.
    let run = serve(&server);
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut *pending), "released\n");
    shut_down(&server);
    ended(&run).unwrap();
}

// Row 46.

#[test]
fn row_046_a_long_poll_interval_does_not_delay_a_shutdown() {
    let server = TcpServer::builder().poll_interval(HOUR).bind(LOCAL, || OneLine).unwrap();
    let server = Arc::new(server);
    let best = (0..5)
        .map(|_| {
            let run = serve(&server);
            assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
            let began = Instant::now();
            shut_down(&server);
            ended(&run).unwrap();
            began.elapsed()
        })
        .min();
    assert!(best < Some(Duration::from_millis(20)), "{best:?}");
}

// Row 47.

/// The current thread's folder of `/proc`.
#[cfg(target_os = "linux")]
fn this_thread() -> PathBuf {
    PathBuf::from("/proc").join(fs::read_link("/proc/thread-self").unwrap())
}

/// How often a thread has left the processor, voluntarily and involuntarily.
#[cfg(target_os = "linux")]
fn switches(thread: &Path) -> String {
    let status = fs::read_to_string(thread.join("status")).expect("a thread that lives");
    status.lines().filter(|line| line.contains("ctxt_switches")).collect()
}

/// Serves in a thread and lets a client visit. Returns the idle server, the thread's folder in `/proc`, and the run's result.
#[cfg(target_os = "linux")]
fn idle_threads<T, M>(
    builder: Builder<T, M>,
    handler: impl socketserver::handler::MakeHandler<T::Request>,
    visit: impl FnOnce(&Server<T, M>),
) -> (Arc<Server<T, M>>, PathBuf, Receiver<socketserver::Result<()>>)
where
    T: socketserver::transport::Bind,
    M: Mixin + 'static,
{
    let server = Arc::new(builder.bind(LOCAL, handler).unwrap());
    let (done, result) = channel();
    let (says, said) = channel();
    let serving = Arc::clone(&server);
    thread::spawn(move || {
        says.send(this_thread()).unwrap();
        let _ = done.send(serving.serve_forever());
    });
    visit(&server);
    (server, said.recv_timeout(SOON).unwrap(), result)
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
#[cfg(target_os = "linux")]
fn row_047_the_threads_of_an_idle_server_sleep() {
    let over_tcp = |server: &dyn BaseServer| {
        let mut client = connect_any(&server.server_address());
        assert_eq!(exchange(&mut *client, "hello"), "hello\n");
        assert!(read_to_end(&mut *client).is_empty());
    };
    let over_udp = |server: &dyn BaseServer| {
        let client = udp_client();
        let to = server.server_address().as_inet().unwrap();
        client.send_to(b"hello", to).unwrap();
        receive(&client).len();
    };
    let (workers, started) = channel();
    let (more_workers, also_started) = (workers.clone(), started);
    let pool = Pool::new(2).on_thread_start(move || workers.send(this_thread()).unwrap());
    let threads = Threading::new()
        .keep(HOUR)
        .on_thread_start(move || more_workers.send(this_thread()).unwrap());

    let (inline, a, run_a) = idle_threads(TcpServer::builder(), || OneLine, |s| over_tcp(s));
    let (udp, b, run_b) = idle_threads(UdpServer::builder(), || OneLine, |s| over_udp(s));
    let threading = TcpServer::builder().mixin(threads);
    let (threading, c, run_c) = idle_threads(threading, || OneLine, |s| over_tcp(s));
    let pool = TcpServer::builder().mixin(pool);
    let (pool, d, run_d) = idle_threads(pool, || OneLine, |s| over_tcp(s));

    // Three workers: one of `Threading`, two of the pool.
    let mut all = vec![a, b, c, d];
    all.extend((0..3).map(|_| also_started.recv_timeout(SOON).unwrap()));
    let look = || all.iter().map(|thread| switches(thread)).collect::<Vec<_>>();
    eventually("the last request is over and done with", || {
        let before = look();
        thread::sleep(Duration::from_millis(100));
        look() == before
    });
    let before = look();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(look(), before);

    shut_down(&inline);
    shut_down(&udp);
    shut_down(&threading);
    shut_down(&pool);
    for run in [run_a, run_b, run_c, run_d] {
        ended(&run).unwrap();
    }
}

// Row 48.

/// Starts a server whose handler calls `stop`: that call must return, and end the run.
fn stopped_by_its_handler<M: Mixin + Default + 'static>(
    stop: fn(&Server<socketserver::transport::Tcp, M>),
) -> Arc<Server<socketserver::transport::Tcp, M>> {
    let place = Arc::new(OnceLock::new());
    let in_handler = Arc::clone(&place);
    let handler = stream_fn(move |request| {
        let server: &Weak<_> = in_handler.get().expect("it is set before the run begins");
        stop(&*server.upgrade().expect("the test holds it"));
        writeln!(request, "stopped")?;
        Ok(())
    });
    let server = Arc::new(Server::<socketserver::transport::Tcp, M>::bind(LOCAL, handler).unwrap());
    assert!(place.set(Arc::downgrade(&server)).is_ok());
    let run = serve(&server);
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "stopped\n");
    ended(&run).unwrap();
    server
}

#[test]
fn row_048_shutdown_from_a_handler_inline() {
    let server = stopped_by_its_handler::<Inline>(Server::shutdown);
    assert!(server.fileno().is_some());
}

#[test]
fn row_048_shutdown_from_a_handler_threading() {
    stopped_by_its_handler::<Threading>(Server::shutdown);
}

#[test]
fn row_048_shutdown_from_a_handler_pool() {
    stopped_by_its_handler::<Pool>(Server::shutdown);
}

#[test]
fn row_048_server_close_from_the_thread_that_serves() {
    let server = stopped_by_its_handler::<Inline>(|server| {
        server.server_close();
    });
    assert!(server.fileno().is_none());
}

#[test]
fn row_048_a_handler_has_a_handle_of_its_server() {
    let handler = stream_fn(|request| {
        let handle = request.server().shutdown_handle();
        handle.shutdown();
        // The handler would wait for its own end, and so `wait` returns at once.
        handle.wait();
        writeln!(request, "stopped")?;
        Ok(())
    });
    let server = Arc::new(TcpServer::bind(LOCAL, handler).unwrap());
    let run = serve(&server);
    assert_eq!(read_line(&mut connect(inet(&*server))), "stopped\n");
    ended(&run).unwrap();
}

// Row 49.

#[test]
fn row_049_a_shutdown_before_the_first_run_ends_it_at_once() {
    let folder = folder();
    let server = UnixStreamServer::bind(folder.path().join("s"), || OneLine).unwrap();
    let server = Arc::new(server);
    let mut pending = connect_any(&server.server_address());
    pending.write_all(b"hello\n").unwrap();
    shut_down(&server);
    ended(&serve(&server)).unwrap();
    assert_eq!(counts(&*server).accepted, 0);

    // The shutdown was for that run alone.
    let run = serve(&server);
    assert_eq!(read_line(&mut *pending), "hello\n");
    shut_down(&server);
    ended(&run).unwrap();
}

#[test]
fn row_049_a_stray_shutdown_after_a_run_does_not_touch_the_next() {
    let server = Arc::new(TcpServer::bind(LOCAL, || OneLine).unwrap());
    for _ in 0..3 {
        let run = serve(&server);
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
        shut_down(&server);
        ended(&run).unwrap();
        shut_down(&server);
        server.shutdown_handle().shutdown();
    }
}

// Row 50.

#[test]
fn row_050_a_shutdown_handle_can_be_anywhere() {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<ShutdownHandle>();
    let server = Arc::new(TcpServer::bind(LOCAL, || OneLine).unwrap());
    let handle = server.shutdown_handle();
    let clone = handle.clone();
    let run = serve(&server);
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    assert!(!handle.is_shutdown());
    thread::spawn(move || clone.shutdown()).join().unwrap();
    ended(&run).unwrap();
    // The handle may outlive its server, and then does nothing.
    drop(server);
    handle.shutdown();
    handle.wait();
}

#[test]
#[allow(unsafe_code, reason = "an action in a signal's handler has to promise to be fit for it")]
fn row_050_a_shutdown_handle_works_in_a_signals_handler() {
    // A signal that no other test sends.
    let signal = libc::SIGWINCH;
    let server = Arc::new(TcpServer::bind(LOCAL, || OneLine).unwrap());
    let run = serve(&server);
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    let handle = server.shutdown_handle();
    // SAFETY: all that the action does is an atomic store and a write, and a signal's handler may do both.
    let id = unsafe { signal_hook::low_level::register(signal, move || handle.shutdown()) };
    let id = id.unwrap();
    signal_hook::low_level::raise(signal).unwrap();
    ended(&run).unwrap();
    signal_hook::low_level::unregister(id);
}

// Row 51.

#[test]
fn row_051_server_close_while_serving_ends_the_loop() {
    let folder = folder();
    let path = folder.path().join("s");
    let server = Arc::new(UnixStreamServer::bind(&path, || OneLine).unwrap());
    let run = serve(&server);
    assert_eq!(exchange(&mut *connect_any(&server.server_address()), "hello"), "hello\n");
    let closing = Arc::clone(&server);
    let report = soon("a close", move || closing.server_close());
    assert!(report.is_clean(), "{report}");
    ended(&run).unwrap();
    assert!(server.fileno().is_none());
    let refused = std::os::unix::net::UnixStream::connect(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(server.serve_forever().unwrap_err().is_closed());
}

#[test]
fn row_051_the_loops_own_thread_closes_a_transport_that_does_not_say_otherwise_without_a_spin() {
    let memory = Memory::new();
    let server = Builder::<Memory, _>::new(Inline).with_transport(memory.clone(), || Silent);
    let server = Arc::new(server.unwrap());
    let (says, said) = channel();
    let (done, run) = channel();
    let serving = Arc::clone(&server);
    thread::spawn(move || {
        says.send(thread::current().id()).unwrap();
        let _ = done.send(serving.serve_forever());
    });
    let serves = said.recv_timeout(SOON).unwrap();
    eventually("the first look", || memory.diary().contains("get_request"));
    let closing = Arc::clone(&server);
    soon("a close", move || closing.server_close());
    ended(&run).unwrap();
    assert_eq!(memory.closed_by()[0], serves);
    // The loop has tried to accept once, found no client, and slept until the close.
    assert_eq!(memory.diary().count("get_request"), 1);
}

#[test]
fn row_051_without_a_run_the_caller_closes_the_listener() {
    let memory = Memory::new();
    let server = Builder::<Memory, _>::new(Inline).with_transport(memory.clone(), || Silent);
    let server = server.unwrap();
    server.server_close();
    assert_eq!(memory.closed_by(), [thread::current().id()]);
    assert!(server.fileno().is_none());
}

// Row 53.

#[test]
fn row_053_leaving_the_scope_closes_the_listener() {
    let folder = folder();
    for server in one_of_each_transport(folder.path()) {
        let address = server.server_address();
        let listener = Arc::downgrade(&server.fileno().unwrap());
        drop(server);
        assert!(listener.upgrade().is_none(), "{address}");
    }
}

#[test]
fn row_053_leaving_the_scope_of_a_background_server_stops_it() {
    let server = TcpServer::bind(LOCAL, || OneLine).unwrap().serve_in_background().unwrap();
    let listener = Arc::downgrade(&server.fileno().unwrap());
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    soon("the end of its scope", move || drop(server));
    assert!(listener.upgrade().is_none());
}

#[test]
fn row_053_leaving_the_scope_waits_for_no_request() {
    let (handler, holder) = held();
    let server = ThreadingTcpServer::bind(LOCAL, move || handler.clone()).unwrap();
    let listener = Arc::downgrade(&server.fileno().unwrap());
    let mut client = connect(inet(&server));
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    holder.started.recv_timeout(SOON).unwrap();
    soon("the end of its scope", move || drop(server));
    assert!(listener.upgrade().is_none());
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut client), "released\n");
}

#[test]
fn row_053_server_close_may_be_called_again() {
    let folder = folder();
    let server = PoolTcpServer::bind(LOCAL, || Echo).unwrap().serve_in_background().unwrap();
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    let address = server.server_address();
    let server = soon("two closes", move || {
        assert!(server.server_close().is_clean());
        assert!(server.server_close().is_clean());
        server
    });
    assert!(server.fileno().is_none());
    // The server still reports the address that it had.
    assert_eq!(server.server_address(), address);
    server.shutdown();
    soon("a stop", move || server.stop()).unwrap();

    let unused = Server::<UnixStream, Inline>::bind(folder.path().join("s"), || Echo).unwrap();
    unused.server_close();
    unused.server_close();
    assert!(unused.handle_request().unwrap_err().is_closed());
}
