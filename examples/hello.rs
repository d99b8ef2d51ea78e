//! Sends back each line that a client sends, over TCP, with a thread for each client.
//!
//! Try it in another terminal: `nc 127.0.0.1 9999`. Ctrl-C stops the server. To listen at another
//! address: `cargo run -p socketserver --example hello -- 127.0.0.1:8000`.

use std::env;
use std::io::Write;

use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler, ThreadingTcpServer};

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

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    let server = ThreadingTcpServer::bind(address, || Echo)?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
