//! A server that can be restarted without losing a client: `cargo run -p socketserver --example handover`.
//!
//! Try it with `nc 127.0.0.1 9999`, which shows which process has answered. Start the example again in another terminal: the
//! new process takes the place of the old one. `kill -USR2 PID` makes a process start its successor itself.

use std::io::Write;

use socketserver::handover::Handover;
use socketserver::{ThreadingTcpServer, stream_fn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9999".into());
    let path = std::env::temp_dir().join("socketserver.handover");
    // This comes first: it fetches the sockets of the server that runs, and `bind` finds its own among them.
    let handover = Handover::at(std::env::args_os().nth(2).unwrap_or_else(|| path.into()))?;
    let server = ThreadingTcpServer::bind(
        address,
        stream_fn(|request| Ok(writeln!(request, "process {}", std::process::id())?)),
    )?;
    println!("listening on {}", server.server_address());
    println!("process {} serves", std::process::id());
    let report = handover.run(&server)?;
    println!("process {}: {report}", std::process::id());
    Ok(())
}
