//! The programs of the documentation, and close variants of them: all of them compile as they are written.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socketserver::mixin::WhenFull;
use socketserver::{BaseServer, DatagramRequest, DatagramRequestHandler, HandlerResult, Limits, Pool, PoolTcpServer, StreamRequest, StreamRequestHandler, TcpServer, Threading, ThreadingTcpServer, ThreadingUnixDatagramServer, UdpServer, UnixStreamServer, datagram_fn, run_all, stream_fn};

struct Echo;

impl StreamRequestHandler for Echo {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            writeln!(request, "{text}")?;
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Echo {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(request.packet())?;
        Ok(())
    }
}

struct Visitors {
    count: Arc<AtomicU64>,
    greeting: String,
}

impl StreamRequestHandler for Visitors {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        writeln!(request, "{}, {} of {number}", self.greeting, request.client_address())?;
        Ok(())
    }
}

fn greet(request: &mut StreamRequest) -> HandlerResult {
    writeln!(request, "hello, {}", request.client_address())?;
    Ok(())
}

/// A server is a field of anything: its handler is no part of its type.
struct Program {
    server: ThreadingTcpServer,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One handler for streams and for datagrams.
    let program = Program { server: ThreadingTcpServer::bind("127.0.0.1:0", || Echo)? };
    let udp = UdpServer::bind(("127.0.0.1", 0), || Echo)?;

    // The closure that makes handlers captures the state that all of them share.
    let count = Arc::new(AtomicU64::new(0));
    let visitors = move || Visitors { count: Arc::clone(&count), greeting: "welcome".into() };
    let pool = PoolTcpServer::bind("127.0.0.1:0", visitors)?;

    // A function or a closure is passed where it is made, or by way of a variable.
    let function = TcpServer::bind("127.0.0.1:0", stream_fn(greet))?;
    let shout = datagram_fn(|request| {
        request.reply(&request.packet().to_ascii_uppercase())?;
        Ok(())
    });
    let closure = UdpServer::bind("127.0.0.1:0", shout)?;

    let full = TcpServer::builder()
        .mixin(Threading::new().max_threads(200).when_full(WhenFull::Refuse))
        .limits(Limits::default().idle(Duration::from_secs(10)))
        .bind("[::]:0", stream_fn(|request| {
            println!("{} is here", request.client_address());
            Ok(())
        }))?;
    let unix = UnixStreamServer::builder().mixin(Pool::new(2)).bind("/tmp/echo.sock", || Echo)?;
    let unixgram = ThreadingUnixDatagramServer::bind("@echo", || Echo)?;

    let background = pool.serve_in_background()?;
    println!("{}", background.server_address());
    println!("{}", background.stop()?);

    let servers: Vec<Box<dyn BaseServer>> = vec![
        Box::new(program.server),
        Box::new(udp),
        Box::new(function),
        Box::new(closure),
        Box::new(full),
        Box::new(unix),
        Box::new(unixgram),
    ];
    for report in run_all(&servers, Duration::from_secs(10), || println!("ready"))? {
        println!("{report}");
    }
    Ok(())
}
