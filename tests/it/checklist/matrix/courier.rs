//! Row 99: a mixin of one's own.

use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use socketserver::mixin::{Gate, Job, Mixin, Permit, Refused};
use socketserver::{TcpServer, UdpServer, UnixDatagramServer, UnixStreamServer};

use super::memory::{assert_every_request_is_ended, over_memory};
use super::{file, loopback, over_a_connection, over_udp, over_unix_datagrams, three_echoes};
use crate::handlers::{Diary, OneLine, held};
use crate::support::{SOON, connect, folder, inet, read_line, soon};

/// Runs requests in one thread of its own, and takes no second one while there is a first.
struct Courier {
    diary: Diary,
    gate: Arc<Gate>,
    to_worker: Mutex<Option<Sender<(Job, Permit)>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Courier {
    fn new(diary: &Diary) -> Self {
        let (to_worker, jobs) = channel::<(Job, Permit)>();
        let worker = thread::spawn(move || {
            for (job, permit) in jobs {
                job.run();
                drop(permit);
            }
        });
        Self {
            diary: diary.clone(),
            gate: Gate::new(1).unwrap(),
            to_worker: Mutex::new(Some(to_worker)),
            worker: Mutex::new(Some(worker)),
        }
    }
}

impl Mixin for Courier {
    fn serve(
        &self,
        accept_loop: Arc<dyn Fn() -> socketserver::Result<()> + Send + Sync>,
    ) -> socketserver::Result<()> {
        self.diary.note("serve");
        let result = accept_loop();
        self.diary.note("served");
        result
    }

    fn process_request(&self, job: Job) {
        self.diary.note("process_request");
        match (self.gate.try_enter(), &*self.to_worker.lock().unwrap()) {
            (Some(permit), Some(to_worker)) => to_worker.send((job, permit)).unwrap(),
            (None, _) => job.refuse(Refused::Busy),
            (_, None) => job.refuse(Refused::Closing),
        }
    }

    fn ready(&self) -> bool {
        let ready = self.gate.is_open();
        self.diary.note(if ready { "ready" } else { "full" });
        ready
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.gate.event_fd())
    }

    fn service_actions(&self) {
        self.gate.settle();
    }

    fn server_close(&self, _deadline: Instant) {
        self.diary.note("server_close");
        drop(self.to_worker.lock().unwrap().take());
        if let Some(worker) = self.worker.lock().unwrap().take() {
            worker.join().unwrap();
        }
    }
}

macro_rules! echoes_by_courier {
    ($($test:ident: $server:ty, $address:ident, $client:ident;)*) => {$(
        #[test]
        fn $test() {
            let (folder, diary) = (folder(), Diary::default());
            let server = <$server>::builder().mixin(Courier::new(&diary));
            let server = server.bind($address(folder.path()), || OneLine).unwrap();
            three_echoes(server, folder.path(), $client);
            assert_eq!(diary.lines()[0], "serve");
            assert_eq!(diary.count("process_request"), 3);
            assert_eq!(diary.count("served"), 1);
            assert!(diary.contains("server_close"));
        }
    )*};
}

echoes_by_courier! {
    row_099_a_mixin_of_ones_own_tcp: TcpServer, loopback, over_a_connection;
    row_099_a_mixin_of_ones_own_udp: UdpServer, loopback, over_udp;
    row_099_a_mixin_of_ones_own_unix_stream: UnixStreamServer, file, over_a_connection;
    row_099_a_mixin_of_ones_own_unix_datagram: UnixDatagramServer, file, over_unix_datagrams;
}

#[test]
fn row_099_both_of_ones_own() {
    let diary = Diary::default();
    assert_every_request_is_ended(&over_memory(Courier::new(&diary)));
    assert_eq!(diary.count("process_request"), 3);
}

#[test]
fn row_099_a_mixin_of_ones_own_holds_the_loop_back() {
    let diary = Diary::default();
    let (handler, holder) = held();
    let server = TcpServer::builder().mixin(Courier::new(&diary));
    let server = server.bind("127.0.0.1:0", move || handler.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut first = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let mut second = connect(inet(&*server));
    crate::support::eventually("the mixin says that it is full", || diary.contains("full"));
    assert_eq!(server.context().counts().accepted, 1);
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut first), "released\n");
    // The free place has woken the loop.
    holder.started.recv_timeout(SOON).unwrap();
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut second), "released\n");
    soon("a stop", move || server.stop()).unwrap();
}
