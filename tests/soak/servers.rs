//! The servers, in a process of their own.

use std::io::{self, BufRead, Write};
use std::panic::panic_any;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::monitor::DrainReport;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, Green, HandlerResult, Limits, StreamRequest, TcpServer,
    UnixStreamServer, join, offload, sleep, stream_fn,
};

use crate::heap;

/// How many bytes "big" is answered with.
pub const BIG: usize = 300_000;

/// How long the servers may take until no request is left.
const QUIET: Duration = Duration::from_secs(30);

const HOUR: Duration = Duration::from_secs(3_600);

/// Serves until stdin ends, or asks for something unknown.
pub fn run() -> ! {
    // Some clients make handlers panic, which is part of the soak and is not printed.
    std::panic::set_hook(Box::new(|_| {}));
    let name = format!("soak-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let tcp = builder(TcpServer::builder()).bind("127.0.0.1:0", stream_fn(answer));
    let tcp = tcp.and_then(socketserver::Server::serve_in_background).expect("a server");
    let unix = UnixStreamServer::builder().mixin(green()).limits(limits()).observer(|_| {});
    let unix = unix.bind(path.as_path(), stream_fn(answer)).expect("a path for a socket");
    let unix = unix.serve_in_background().expect("a thread");
    let drained = Arc::new(Drained::default());
    let port = Drained::first(&drained);
    println!("{} {} {port}", port_of(&tcp), path.display());
    for line in io::stdin().lock().lines() {
        match line.as_deref() {
            Ok("quiet") => {
                drained.pauses.store(true, Ordering::SeqCst);
                let until = Instant::now() + QUIET;
                let live = || tcp.context().live_count() + unix.context().live_count();
                while (live() > 0 || drained.runs.load(Ordering::SeqCst)) && Instant::now() < until
                {
                    thread::sleep(Duration::from_millis(10));
                }
                // `offload` and the like keep idle threads for a while.
                thread::sleep(Duration::from_millis(200));
                println!("{}", if live() == 0 { "quiet" } else { "busy" });
            }
            Ok("heap") => {
                let (bytes, blocks) = heap::in_use();
                println!("{bytes} {blocks}");
            }
            Ok("go") => {
                drained.pauses.store(false, Ordering::SeqCst);
                println!("go");
            }
            _ => break,
        }
    }
    let reports = [tcp.stop(), unix.stop()];
    let is_clean = reports.iter().all(|report| report.as_ref().is_ok_and(DrainReport::is_clean));
    let [drains, forced, left] = [&drained.drains, &drained.forced, &drained.left];
    println!(
        "{} drains, which cut off {} requests that would sleep for an hour, and left {} behind",
        drains.load(Ordering::SeqCst),
        forced.load(Ordering::SeqCst),
        left.load(Ordering::SeqCst)
    );
    // On a busy machine a handler may end a moment after the report has named it. A handler that stayed would keep its
    // worker, and the table of threads would show that.
    let many = drains.load(Ordering::SeqCst) / 20;
    exit(i32::from(!is_clean || left.load(Ordering::SeqCst) > many))
}

fn green() -> Green {
    Green::new().workers(2)
}

fn limits() -> Limits {
    Limits::default().drain(Duration::from_millis(300))
}

fn builder(builder: Builder<Tcp, socketserver::Inline>) -> Builder<Tcp, Green> {
    builder.mixin(green()).limits(limits()).observer(|_| {})
}

fn port_of(server: &BackgroundServer<Tcp, Green>) -> u16 {
    server.server_address().as_inet().expect("a TCP server has one").port()
}

/// A server that is drained and begins anew.
#[derive(Default)]
struct Drained {
    pauses: AtomicBool,
    runs: AtomicBool,
    drains: AtomicU64,
    forced: AtomicU64,
    left: AtomicU64,
}

impl Drained {
    /// Starts the first server, and the thread that drains it and starts the next one. Returns the port.
    fn first(drained: &Arc<Self>) -> u16 {
        let start = |port: u16| {
            builder(TcpServer::builder())
                .bind(("127.0.0.1", port), stream_fn(answer))
                .and_then(socketserver::Server::serve_in_background)
                .expect("a server where one was")
        };
        let mut server = Some(start(0));
        let port = server.as_ref().map_or(0, port_of);
        let drained = Arc::clone(drained);
        drained.runs.store(true, Ordering::SeqCst);
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(700));
                if let Some(server) = server.take() {
                    let report = server.stop().expect("a drain");
                    drained.drains.fetch_add(1, Ordering::SeqCst);
                    drained.forced.fetch_add(report.forced.len() as u64, Ordering::SeqCst);
                    drained.left.fetch_add(report.left_running.len() as u64, Ordering::SeqCst);
                }
                drained.runs.store(false, Ordering::SeqCst);
                if !drained.pauses.load(Ordering::SeqCst) {
                    drained.runs.store(true, Ordering::SeqCst);
                    server = Some(start(port));
                }
            }
        });
        port
    }
}

/// A payload of a panic that panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("the drop of a payload"));
    }
}

/// Does what each line says.
fn answer(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let text = text.to_owned();
        match text.as_str() {
            "big" => request.write_all(&vec![b'b'; BIG])?,
            "panic" => panic!("as asked"),
            "bomb" => panic_any(Bomb),
            "hour" => sleep(HOUR),
            "flood" => {
                let outbox = request.outbox()?;
                while outbox.send([b'f'; 16_384]).is_ok() {}
                return Ok(());
            }
            "sleep" => sleep(Duration::from_millis(5)),
            "offload" => offload(|| thread::sleep(Duration::from_millis(1)))?,
            "join" => {
                join(|| sleep(Duration::from_millis(3)), || sleep(Duration::from_millis(2)))?;
            }
            "spin" => {
                let until = Instant::now() + Duration::from_millis(60);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            _ => {}
        }
        writeln!(request, "{text}")?;
    }
    Ok(())
}
