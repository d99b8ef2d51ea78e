//! Counts visitors. Each request has a handler of its own, made by the closure; all handlers share the counter that the
//! closure has captured.
//!
//! Try it, twice: `nc 127.0.0.1 9999`.

use std::env;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler, ThreadingTcpServer};

struct Greeter {
    visitors: Arc<Mutex<u64>>,
}

impl StreamRequestHandler for Greeter {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let number = {
            // A handler that panicked while it held the lock is no reason for others to fail.
            let mut visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
            *visitors += 1;
            *visitors
        };
        // The lock is free again: a slow client keeps no other waiting.
        writeln!(request, "you are visitor {number}")?;
        Ok(())
    }
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    let visitors = Arc::new(Mutex::new(0));
    let make = move || Greeter { visitors: Arc::clone(&visitors) };
    let server = ThreadingTcpServer::bind(address, make)?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
