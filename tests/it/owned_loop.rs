//! The accept loop is its mixin's to keep: it runs on other threads, and after its run it does nothing.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;

use socketserver::mixin::{Job, Mixin};
use socketserver::{Inline, Result, TcpServer, stream_fn};

use crate::support::{connect, inet, read_to_end, soon};

type AcceptLoop = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Runs the loop on two threads outside of any scope, and keeps it.
#[derive(Clone, Default)]
struct Keeps {
    kept: Arc<Mutex<Vec<AcceptLoop>>>,
}

impl Mixin for Keeps {
    fn serve(&self, accept_loop: AcceptLoop) -> Result<()> {
        self.kept.lock().unwrap().push(Arc::clone(&accept_loop));
        let threads = [(); 2].map(|()| {
            let accept_loop = Arc::clone(&accept_loop);
            thread::spawn(move || accept_loop())
        });
        threads.map(|thread| thread.join().unwrap()).into_iter().collect()
    }

    fn process_request(&self, job: Job) {
        Inline.process_request(job);
    }
}

#[test]
fn it_runs_on_threads_of_the_mixins_and_is_over_with_its_run() {
    let mixin = Keeps::default();
    let hello = stream_fn(|request| Ok(request.write_all(b"hello\n")?));
    let server = TcpServer::builder().mixin(mixin.clone()).bind("127.0.0.1:0", hello).unwrap();
    let serves_one = |client: &mut TcpStream| {
        thread::scope(|scope| {
            let serving = scope.spawn(|| server.serve_forever());
            assert_eq!(read_to_end(client), b"hello\n");
            server.shutdown();
            serving.join().unwrap().unwrap();
        });
    };
    serves_one(&mut connect(inet(&server)));
    let mut waiting = connect(inet(&server));
    let kept = mixin.kept.lock().unwrap().pop().unwrap();
    let late = Arc::clone(&kept);
    soon("a loop without a run", move || late()).unwrap();
    // The client is there for the next run.
    serves_one(&mut waiting);
    // The loop owns the server's parts, and not the server.
    drop(server);
    soon("a loop without a server", move || kept()).unwrap();
}
