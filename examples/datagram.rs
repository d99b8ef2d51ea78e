//! Answers each datagram with its text in capitals, over UDP. A handler of datagrams has no connection: one
//! packet comes, and `reply` sends one back.
//!
//! Try it: `nc -u 127.0.0.1 9999`.

use std::env;

use socketserver::{DatagramRequest, DatagramRequestHandler, HandlerResult, UdpServer};

struct Capitals;

impl DatagramRequestHandler for Capitals {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let text = String::from_utf8_lossy(request.packet()).to_uppercase();
        // `reply` returns false if the datagram came without an address, as from a Unix socket that is not bound.
        let _replied = request.reply(text.as_bytes())?;
        Ok(())
    }
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    let server = UdpServer::bind(address, || Capitals)?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
