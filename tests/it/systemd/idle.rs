//! Servers that stop when nobody is served, and what becomes of a client that comes at that moment.

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socketserver::mixin::Mixin;
use socketserver::transport::BindAddress;
use socketserver::{
    BaseServer, HandlerResult, Inline, Pool, StreamRequest, TcpServer, Threading, UdpServer,
    datagram_fn, run_all, stream_fn,
};

use crate::support::activation::activated;
use crate::support::process::{Process, child_command, is_child};
use crate::support::{
    SOON, alone, connect, exchange, inet, read_to_end, receive, serve, udp_client,
};

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

const TIME: Duration = Duration::from_millis(200);

fn a_server_stops_when_nobody_has_been_served_for_a_while<M: Mixin + 'static>(mixin: M) {
    let server = TcpServer::builder().mixin(mixin).stop_when_idle(TIME);
    let server = Arc::new(server.bind("127.0.0.1:0", stream_fn(echo)).unwrap());
    let began = Instant::now();
    let done = serve(&server);
    // A connection that is silent for longer than the idle time is served all the same.
    let mut client = connect(inet(&*server));
    for _ in 0..3 {
        assert_eq!(exchange(&mut client, "still here"), "still here\n");
        thread::sleep(TIME);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    let left = Instant::now();
    done.recv_timeout(SOON).expect("it stops").unwrap();
    assert!(left.elapsed() >= TIME - Duration::from_millis(50) && began.elapsed() >= 4 * TIME);
    // Another run begins anew.
    let done = serve(&server);
    assert_eq!(exchange(&mut connect(inet(&*server)), "again"), "again\n");
    done.recv_timeout(SOON).expect("it stops").unwrap();
}

#[test]
fn a_server_stops_when_nobody_has_been_served_for_a_while_inline() {
    a_server_stops_when_nobody_has_been_served_for_a_while(Inline);
}

#[test]
fn a_server_stops_when_nobody_has_been_served_for_a_while_threading() {
    a_server_stops_when_nobody_has_been_served_for_a_while(Threading::new());
}

#[test]
fn a_server_stops_when_nobody_has_been_served_for_a_while_pool() {
    a_server_stops_when_nobody_has_been_served_for_a_while(Pool::new(2));
}

#[test]
fn several_servers_stop_together() {
    alone("systemd::idle::several_servers_stop_together", || {
        let stream = TcpServer::builder().stop_when_idle(TIME);
        let stream = Arc::new(stream.bind("127.0.0.1:0", stream_fn(echo)).unwrap());
        let reply = datagram_fn(|request| Ok(request.reply(request.packet()).map(drop)?));
        let datagrams = UdpServer::builder().stop_when_idle(TIME);
        let datagrams = Arc::new(datagrams.bind("127.0.0.1:0", reply).unwrap());
        let servers: Vec<Box<dyn BaseServer>> =
            vec![Box::new(Arc::clone(&stream)), Box::new(Arc::clone(&datagrams))];
        let running = thread::spawn(move || run_all(&servers, SOON, || ()));
        // The stream server is idle for all of this time, and still runs at the end of it.
        let client = udp_client();
        for _ in 0..20 {
            client.send_to(b"tick", inet(&*datagrams)).unwrap();
            assert_eq!(receive(&client), b"tick");
            thread::sleep(TIME / 8);
        }
        assert_eq!(exchange(&mut connect(inet(&*stream)), "here"), "here\n");
        assert!(
            running
                .join()
                .unwrap()
                .unwrap()
                .iter()
                .all(socketserver::monitor::DrainReport::is_clean)
        );
    });
}

const ACTIVATED: &str = "systemd::idle::no_client_is_lost_when_an_activated_server_stops";

/// The test plays the service manager: it starts a server when a client waits, and again when that server has ended.
#[test]
fn no_client_is_lost_when_an_activated_server_stops() {
    if is_child(ACTIVATED) {
        let server = TcpServer::builder()
            .mixin(Threading::new())
            .stop_when_idle(Duration::from_millis(100))
            .bind(BindAddress::activated_only(), stream_fn(echo))
            .unwrap();
        assert!(server.run().unwrap().is_clean());
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let manager = thread::spawn(move || {
        let mut started = 0;
        let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        while is_over.try_recv().is_err() {
            let mut fds = [PollFd::new(&listener, PollFlags::IN)];
            if poll(&mut fds, Some(&tick)).unwrap() == 0 {
                continue;
            }
            let sockets: [(&str, &dyn AsFd); 1] = [("echo", &listener)];
            let (mut command, copies) = activated(&child_command(ACTIVATED), &sockets);
            let server = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
            drop((command, copies));
            started += 1;
            let ended = server.end();
            assert!(ended.status.success(), "{}{}", ended.out, ended.err);
        }
        started
    });
    // Each client connects at about the moment at which the server of the previous client stops.
    for number in 0..24u64 {
        let mut client = connect(address);
        assert_eq!(exchange(&mut client, "hello"), "hello\n", "client {number}");
        drop(client);
        thread::sleep(Duration::from_millis(80 + 3 * number));
    }
    over.send(()).unwrap();
    assert!(manager.join().unwrap() > 1, "no server has stopped");
}
