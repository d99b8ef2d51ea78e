//! Many coroutines that wait for a moment: how fast they are made, and how much memory and how many mappings they take. A
//! hundred thousand of them, whose figures are in DESIGN.md, take a gigabyte:
//!
//! ```text
//! COROUTINES=100000 cargo test --release --test it many_timers -- --nocapture
//! ```

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socketserver::transport::UnixDatagram as Transport;
use socketserver::{Builder, DatagramRequest, Green, HandlerResult, Limits, datagram_fn, sleep};

use crate::support::folder;
use crate::support::system::own_status;

/// How many coroutines there are, if `COROUTINES` says nothing else.
const MANY: usize = 3_000;

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

fn until(count: &AtomicUsize, most: usize) {
    while count.load(Ordering::SeqCst) < most {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn many_coroutines_wait_on_timers() {
    let many = std::env::var("COROUTINES").map_or(MANY, |count| count.parse().expect("a number"));
    // The shortest of the waits is so long that all coroutines have begun before it ends.
    let first = Duration::from_millis(if many > MANY { 10_000 } else { 4_000 });
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begins, ends) = (Arc::clone(&begun), Arc::clone(&ended));
    // Each waits for a moment of its own, in no order.
    let handler = datagram_fn(move |_request: &mut DatagramRequest| -> HandlerResult {
        let number = begins.fetch_add(1, Ordering::SeqCst);
        sleep(first + Duration::from_millis((number * 7_919 % 2_000) as u64));
        ends.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let folder = folder();
    let path = folder.path().join("s");
    let builder = Builder::<Transport, _>::new(Green::new().workers(1)).observer(|_| {});
    let builder = builder.limits(Limits::default().live(2 * many));
    let server = builder.bind(path.as_path(), handler).unwrap().serve_in_background().unwrap();
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();

    let (memory, maps, tables) = (own_status("VmRSS"), mappings(), own_status("VmPTE"));
    let began = Instant::now();
    // A full queue makes the sender wait, and no datagram is lost.
    for _ in 0..many {
        client.send(b"x").unwrap();
    }
    until(&begun, many);
    let made = began.elapsed();
    assert_eq!(ended.load(Ordering::SeqCst), 0, "all of them wait at once");
    let (memory, maps) =
        (own_status("VmRSS").saturating_sub(memory), mappings().saturating_sub(maps));
    let tables = own_status("VmPTE").saturating_sub(tables);
    until(&ended, many);
    println!(
        "{many} coroutines on timers: made in {:.2} s, {:.2} KiB of memory and {:.2} KiB of page tables each, \
         {maps} mappings more; the last has ended {:.2} s after the first began",
        made.as_secs_f64(),
        memory as f64 / many as f64,
        tables as f64 / many as f64,
        began.elapsed().as_secs_f64()
    );
    // The memory of other tests in this process counts as well, which matters only if there are few coroutines.
    assert!(many == MANY || memory < 16 * many, "{memory} KiB");
    assert!(server.stop().unwrap().is_clean());
}
