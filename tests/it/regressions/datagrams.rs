//! Replies to datagrams: some once left late, and some go to a peer that reads nothing.

use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use socketserver::mixin::Mixin;
use socketserver::transport::Udp;
use socketserver::{
    Builder, DatagramRequest, DatagramRequestHandler, HandlerResult, Inline, Threading,
    UnixDatagramServer, datagram_fn,
};

use crate::handlers::Diary;
use crate::support::{
    SOON, eventually, folder, hear, inet, receive, receive_text, skip, udp_client,
};

/// Acknowledges, works for a long time, and reports the end of it.
#[derive(Clone)]
struct Slow {
    step: Arc<Mutex<Receiver<()>>>,
}

impl DatagramRequestHandler for Slow {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(b"acknowledged")?;
        // The work takes as long as the test wants it to.
        let _ = hear(&self.step);
        request.reply(b"done")?;
        Ok(())
    }
}

fn a_reply_leaves_at_once(mixin: impl Mixin + 'static) {
    let (end_of_step, step) = channel();
    let slow = Slow { step: Arc::new(Mutex::new(step)) };
    let server = Builder::<Udp, _>::new(mixin).bind("127.0.0.1:0", move || slow.clone());
    let server = server.unwrap().serve_in_background().unwrap();
    let client = udp_client();
    client.connect(inet(&*server)).unwrap();
    for _ in 0..3 {
        client.send(b"please").unwrap();
        assert_eq!(receive_text(&client), "acknowledged");
        end_of_step.send(()).unwrap();
        assert_eq!(receive_text(&client), "done");
    }
}

#[test]
fn a_datagram_is_acknowledged_before_the_slow_step_that_follows_inline() {
    a_reply_leaves_at_once(Inline);
}

#[test]
fn a_datagram_is_acknowledged_before_the_slow_step_that_follows_threading() {
    a_reply_leaves_at_once(Threading::new());
}

/// Replies, and notes the result.
#[derive(Clone)]
struct Noting {
    replies: Diary,
}

impl DatagramRequestHandler for Noting {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let came_of_it = match request.reply(b"reply") {
            Ok(sent) => format!("{sent}"),
            Err(error) => format!("{:?}", error.kind()),
        };
        self.replies.note(came_of_it);
        Ok(())
    }
}

#[test]
fn a_datagram_peer_that_never_reads_delays_nobody_and_its_replies_fail() {
    let queue = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen");
    let queue: usize = queue.map_or(usize::MAX, |text| text.trim().parse().unwrap());
    if queue > 2_000 {
        return skip("the queues of Unix datagrams are unknown here, or too long");
    }
    let folder = folder();
    let path = folder.path().join("server");
    let replies = Diary::default();
    let noting = Noting { replies: replies.clone() };
    let server = UnixDatagramServer::bind(path.clone(), move || noting.clone()).unwrap();
    let _server = server.serve_in_background().unwrap();
    // The peer's socket is not connected: if it were connected to the server, the server could send to it without end.
    let peer = |name: &str| {
        let socket = UnixDatagram::bind(folder.path().join(name)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        socket
    };
    let (stuck, good) = (peer("stuck"), peer("good"));
    let ask = |socket: &UnixDatagram| assert_eq!(socket.send_to(b"x", &path).unwrap(), 1);
    for _ in 0..=queue {
        ask(&stuck);
    }
    eventually("its queue is full", || replies.lines().len() == queue + 1);
    assert_eq!(replies.count("true"), queue + 1);
    ask(&stuck);
    eventually("one more is answered", || replies.lines().len() == queue + 2);
    assert_eq!(replies.lines().last().unwrap(), "WouldBlock");
    // If the server waited for each of these replies, even a little, the next client would not be answered soon.
    for _ in 0..400 {
        ask(&stuck);
    }
    ask(&good);
    assert_eq!(receive(&good).len(), 5);
}

#[test]
fn a_datagram_peer_that_takes_no_reply_is_no_failure_of_the_server() {
    let folder = folder();
    let path = folder.path().join("server");
    let echo = datagram_fn(|request| {
        request.reply(request.packet())?;
        Ok(())
    });
    let server = UnixDatagramServer::bind(path.clone(), echo).unwrap();
    let peer = |name: &str| {
        let socket = UnixDatagram::bind(folder.path().join(name)).unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        socket
    };
    // The file of this peer exists, but its socket is closed, so that datagrams are refused.
    assert_eq!(peer("refuses").send_to(b"x", &path).unwrap(), 1);
    let server = server.serve_in_background().unwrap();
    eventually("it is lost", || server.context().counts().disconnected == 1);
    // These peers never read. Connected or not, some queue fills.
    for (connected, name) in ["queue", "buffer"].into_iter().enumerate() {
        let stuck = peer(name);
        if connected == 1 {
            stuck.connect(&path).unwrap();
        }
        let lost = server.context().counts().disconnected;
        eventually("replies are lost", || {
            for _ in 0..100 {
                let sent =
                    if connected == 1 { stuck.send(b"x") } else { stuck.send_to(b"x", &path) };
                assert_eq!(sent.unwrap(), 1);
            }
            server.context().counts().disconnected > lost
        });
    }
    assert_eq!(server.context().counts().failed, 0);
    server.stop().unwrap();
}
