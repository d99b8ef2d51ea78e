//! An accept loop that is left behind: its worker is held, and the server has closed. Code of the program that waits in the loop
//! may have lent its data to threads, which go on.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use socketserver::hooks::{Failure, Incoming};
use socketserver::mixin::{Job, Mixin};
use socketserver::{
    Green, HandlerError, HandlerResult, Limits, ServerHooks, StreamRequest, TcpServer, sleep,
    stream_fn,
};

use crate::support::{connect, eventually, exchange, inet, read_line, read_to_end, soon};

/// The part of a [`Lender`] that its test sees.
#[derive(Default)]
struct Seen {
    /// How often the thread has used the borrowed data.
    uses: AtomicUsize,
    /// Whether the thread is to end.
    is_over: AtomicBool,
    /// Whether the lender has been dropped.
    is_gone: AtomicBool,
}

/// Something that lends its own data to a thread, once, and waits for the thread.
struct Lender {
    data: Vec<usize>,
    has_lent: AtomicBool,
    seen: Arc<Seen>,
}

impl Lender {
    fn new() -> (Self, Arc<Seen>) {
        let seen = Arc::<Seen>::default();
        let (data, has_lent) = (vec![1; 1_000], AtomicBool::new(false));
        (Self { data, has_lent, seen: Arc::clone(&seen) }, seen)
    }

    /// Lends the data, in the accept loop. The frames below have data as well.
    fn lend(&self) {
        if self.has_lent.swap(true, Ordering::SeqCst) {
            return;
        }
        let in_frame = vec![2; 1_000];
        thread::scope(|scope| {
            scope.spawn(|| {
                while !self.seen.is_over.load(Ordering::SeqCst) {
                    assert!(!self.seen.is_gone.load(Ordering::SeqCst), "it is borrowed");
                    let sum: usize = self.data.iter().chain(&in_frame).sum();
                    assert_eq!(sum, 3_000);
                    self.seen.uses.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            loop {
                sleep(Duration::from_secs(3_600));
            }
        });
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        self.data.fill(0);
        self.seen.is_gone.store(true, Ordering::SeqCst);
    }
}

/// A handler that holds its worker from its beginning on, until the channel is used.
fn holds() -> (Sender<()>, impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static) {
    let (free, freed) = channel();
    let freed = Mutex::new(freed);
    (free, move |request: &mut StreamRequest| {
        writeln!(request, "here")?;
        let _ = freed.lock().unwrap().recv();
        Ok(())
    })
}

/// Serves one client, which holds the only worker while the lender waits, and then closes and drops the server. Fails unless
/// the borrowed data are there until the thread has ended, and no longer.
fn is_kept_while_it_is_lent(
    mixin: impl Mixin,
    hooks: impl ServerHooks<StreamRequest>,
    seen: &Arc<Seen>,
) {
    let (free, handler) = holds();
    let server = TcpServer::builder()
        .mixin(mixin)
        .hooks(hooks)
        .limits(Limits::default().drain(Duration::from_millis(200)))
        .bind("127.0.0.1:0", stream_fn(handler))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "here\n");
    let uses = || seen.uses.load(Ordering::SeqCst);
    eventually("it is lent", || uses() > 0);
    // This stops and drops the server; the worker and the thread go on.
    let report = soon("a stop", move || server.stop()).unwrap();
    assert_eq!(report.left_running.len(), 1, "{report}");
    let before = uses();
    eventually("the thread goes on", || uses() > before + 20);
    assert!(!seen.is_gone.load(Ordering::SeqCst));
    // The worker goes on. The loop ends by itself, once the thread has given back the borrowed data.
    free.send(()).unwrap();
    let before = uses();
    eventually("the thread goes on", || uses() > before + 20);
    seen.is_over.store(true, Ordering::SeqCst);
    eventually("nothing is left", || seen.is_gone.load(Ordering::SeqCst));
}

fn one_worker() -> Green {
    Green::new().workers(1)
}

#[test]
fn a_hook_that_lends_its_data_keeps_it() {
    struct Hooks(Lender);
    impl ServerHooks<StreamRequest> for Hooks {
        fn service_actions(&self) {
            self.0.lend();
        }
    }
    let (lender, seen) = Lender::new();
    is_kept_while_it_is_lent(one_worker(), Hooks(lender), &seen);
}

struct NoHooks;

impl ServerHooks<StreamRequest> for NoHooks {}

/// A mixin around `Green` that lends its own data where the loop calls it.
struct Around {
    green: Green,
    lender: Lender,
}

impl Mixin for Around {
    fn serve(
        &self,
        accept_loop: Arc<dyn Fn() -> socketserver::Result<()> + Send + Sync>,
    ) -> socketserver::Result<()> {
        self.green.serve(accept_loop)
    }

    fn process_request(&self, job: Job) {
        self.green.process_request(job);
        self.lender.lend();
    }

    fn force(&self) {
        self.green.force();
    }

    fn server_close(&self, deadline: std::time::Instant) {
        self.green.server_close(deadline);
    }
}

#[test]
fn a_mixin_around_green_that_lends_its_data_keeps_it() {
    let (lender, seen) = Lender::new();
    is_kept_while_it_is_lent(Around { green: one_worker(), lender }, NoHooks, &seen);
}

/// A mixin around `Green` whose loop is its own: it lends the captures of the loop.
struct OwnLoop {
    green: Green,
    lender: Mutex<Option<Lender>>,
}

impl Mixin for OwnLoop {
    fn serve(
        &self,
        accept_loop: Arc<dyn Fn() -> socketserver::Result<()> + Send + Sync>,
    ) -> socketserver::Result<()> {
        let lender = self.lender.lock().unwrap().take().unwrap();
        self.green.serve(Arc::new(move || {
            thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    while !lender.seen.is_over.load(Ordering::SeqCst) {
                        assert_eq!(lender.data.iter().sum::<usize>(), 1_000);
                        lender.seen.uses.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(1));
                    }
                });
                let result = accept_loop();
                thread.join().unwrap();
                result
            })
        }))
    }

    fn process_request(&self, job: Job) {
        self.green.process_request(job);
    }

    fn force(&self) {
        self.green.force();
    }

    fn server_close(&self, deadline: std::time::Instant) {
        self.green.server_close(deadline);
    }
}

#[test]
fn a_loop_of_ones_own_that_lends_what_it_has_captured_keeps_it() {
    let (lender, seen) = Lender::new();
    let mixin = OwnLoop { green: one_worker(), lender: Mutex::new(Some(lender)) };
    is_kept_while_it_is_lent(mixin, NoHooks, &seen);
}

/// The hook of one client waits, and its worker is held: the loop goes on elsewhere.
#[test]
fn a_loop_that_is_retired_within_a_hook_calls_no_other() {
    #[derive(Default)]
    struct Calls {
        asked: AtomicUsize,
        waits_for_second: AtomicBool,
        loops: Mutex<Vec<ThreadId>>,
        errors: AtomicUsize,
    }
    struct Hooks(Arc<Calls>);
    impl ServerHooks<StreamRequest> for Hooks {
        fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            if self.0.asked.fetch_add(1, Ordering::SeqCst) == 1 {
                self.0.waits_for_second.store(true, Ordering::SeqCst);
                sleep(Duration::from_secs(3_600));
            }
            Ok(true)
        }

        fn service_actions(&self) {
            self.0.loops.lock().unwrap().push(thread::current().id());
        }

        fn handle_error(&self, _failure: &Failure<'_>) {
            self.0.errors.fetch_add(1, Ordering::SeqCst);
        }
    }
    let calls = Arc::<Calls>::default();
    let (free, freed) = channel();
    let freed = Mutex::new(freed);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            if text == "hold" {
                let _ = freed.lock().unwrap().recv();
            }
            writeln!(request, "here")?;
        }
        Ok(())
    });
    let server = TcpServer::builder()
        .mixin(Green::new().workers(2).watchdog(Duration::from_millis(50)))
        .hooks(Hooks(Arc::clone(&calls)))
        .bind("127.0.0.1:0", handler)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    // This client is served by the loop's own worker.
    let mut holder = connect(inet(&*server));
    assert_eq!(exchange(&mut holder, "hello"), "here\n");
    let mut in_hook = connect(inet(&*server));
    eventually("its hook waits", || calls.waits_for_second.load(Ordering::SeqCst));
    holder.write_all(b"hold\n").unwrap();
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "here\n");
    let first = calls.loops.lock().unwrap()[0];
    let of_first = |calls: &Calls| {
        calls.loops.lock().unwrap().iter().filter(|thread| **thread == first).count()
    };
    let before = of_first(&calls);
    free.send(()).unwrap();
    assert_eq!(read_line(&mut holder), "here\n");
    // The client of the hook is turned away, in order.
    assert_eq!(read_to_end(&mut in_hook), b"");
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "here\n");
    assert_eq!((of_first(&calls), calls.errors.load(Ordering::SeqCst)), (before, 0));
    drop(holder);
    assert!(server.stop().unwrap().is_clean());
}
