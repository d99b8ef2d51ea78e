//! Two servers whose requests run in one `Green`: each accept loop has its own waits.

use std::sync::Arc;
use std::time::Instant;

use socketserver::mixin::{Job, Mixin};
use socketserver::{Green, TcpServer};

use crate::handlers::Echo;
use crate::support::{connect, exchange, inet};

/// The mixin of one of several servers. It does not pass its close on, because the other servers still use the same `Green`.
struct Shared(Arc<Green>);

impl Mixin for Shared {
    fn serve(
        &self,
        accept_loop: Arc<dyn Fn() -> socketserver::Result<()> + Send + Sync>,
    ) -> socketserver::Result<()> {
        self.0.serve(accept_loop)
    }

    fn process_request(&self, job: Job) {
        self.0.process_request(job);
    }

    fn drain(&self, deadline: Instant) {
        self.0.drain(deadline);
    }

    fn force(&self) {
        self.0.force();
    }
}

#[test]
fn each_of_two_servers_that_share_a_worker_takes_its_clients_and_its_stop() {
    let green = Arc::new(Green::new().workers(1));
    let serve = || {
        let server = TcpServer::builder().mixin(Shared(Arc::clone(&green)));
        server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap()
    };
    let (first, second) = (serve(), serve());
    for _ in 0..3 {
        for address in [inet(&*first), inet(&*second)] {
            assert_eq!(exchange(&mut connect(address), "here"), "here\n");
        }
    }
    assert!(first.stop().unwrap().is_clean());
    assert_eq!(exchange(&mut connect(inet(&*second)), "still"), "still\n");
    assert!(second.stop().unwrap().is_clean());
}
