//! The end of handlers that do not end by themselves.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socketserver::park::{Cancelled, shield, sleep};
use socketserver::transport::Tcp;
use socketserver::{Green, HandlerResult, Limits, StreamRequest, TcpServer, stream_fn};

use crate::support::{SOON, connect, eventually, inet, read_line, read_to_end};

const HOUR: Duration = Duration::from_secs(3_600);

fn serving(
    handler: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> socketserver::BackgroundServer<Tcp, Green> {
    let server = TcpServer::builder()
        .mixin(Green::new().workers(2))
        .limits(Limits::default().drain(Duration::from_millis(100)));
    server.bind("127.0.0.1:0", stream_fn(handler)).unwrap().serve_in_background().unwrap()
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_thousand_handlers_that_sleep_for_an_hour_end_at_the_deadline_and_drop_what_they_have() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let drops = Arc::clone(&dropped);
    let server = serving(move |request| {
        let _counted = Counted(Arc::clone(&drops));
        writeln!(request, "here")?;
        loop {
            sleep(HOUR);
        }
    });
    let mut clients: Vec<_> = (0..1_000).map(|_| connect(inet(&*server))).collect();
    for client in &mut clients {
        assert_eq!(read_line(client), "here\n");
    }
    let report = server.stop().unwrap();
    assert_eq!(report.forced.len(), 1_000, "{report}");
    // On a quiet machine all have ended before the close returns.
    eventually("all have ended", || dropped.load(Ordering::SeqCst) == 1_000);
    assert!(read_to_end(&mut clients[0]).is_empty());
}

#[test]
fn a_wait_fails_once_and_says_why() {
    let seen = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&seen);
    let server = serving(move |request| {
        writeln!(request, "here")?;
        let never = std::net::TcpListener::bind("127.0.0.1:0")?;
        let mut other = socketserver::outgoing::connect(never.local_addr()?, SOON)?;
        let error = std::io::Read::read(&mut other, &mut [0]).expect_err("nothing comes");
        assert!(Cancelled::find(&error).is_some(), "{error:?}");
        told.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "here\n");
    let report = server.stop().unwrap();
    assert_eq!(report.forced.len(), 1, "{report}");
    eventually("the handler has seen it", || seen.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_shielded_section_is_not_cancelled() {
    let (ended, handlers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (told, drops) = (Arc::clone(&ended), Arc::clone(&handlers));
    let server = serving(move |request| {
        let _counted = Counted(Arc::clone(&drops));
        writeln!(request, "here")?;
        shield(|| {
            sleep(Duration::from_millis(150));
            told.store(true, Ordering::SeqCst);
        });
        sleep(HOUR);
        Ok(())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "here\n");
    let report = server.stop().unwrap();
    assert_eq!(report.forced.len(), 1, "{report}");
    eventually("the section ends", || ended.load(Ordering::SeqCst));
    eventually("the handler ends", || handlers.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_handler_that_swallows_everything_is_left_and_named_and_the_server_closes_in_time() {
    let (over, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (ends, told) = (Arc::clone(&over), Arc::clone(&gone));
    let server = serving(move |request| {
        writeln!(request, "here")?;
        while !ends.load(Ordering::SeqCst) {
            let _ = catch_unwind(AssertUnwindSafe(|| sleep(HOUR)));
        }
        told.store(true, Ordering::SeqCst);
        Ok(())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "here\n");
    let began = Instant::now();
    let report = server.stop().unwrap();
    assert!(began.elapsed() < SOON, "{report}");
    assert_eq!((report.forced.len(), report.left_running.len()), (1, 1), "{report}");
    over.store(true, Ordering::SeqCst);
    eventually("the handler ends all the same", || gone.load(Ordering::SeqCst));
}

#[test]
fn a_wait_for_the_end_of_the_request_is_cancelled_as_well() {
    let ended = Arc::new(AtomicUsize::new(0));
    let drops = Arc::clone(&ended);
    let server = serving(move |request| {
        let _counted = Counted(Arc::clone(&drops));
        let stop = request.stop_token()?;
        writeln!(request, "here")?;
        while !stop.wait_closed(None) {}
        Ok(())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "here\n");
    let report = server.stop().unwrap();
    assert_eq!(report.forced.len(), 1, "{report}");
    eventually("the handler ends", || ended.load(Ordering::SeqCst) == 1);
}
