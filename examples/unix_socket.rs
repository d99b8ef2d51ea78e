//! Listens at a Unix socket that only its owner can connect to, and tells each client its user id. The file is removed
//! when the server stops.
//!
//! Try it, in the same folder: `nc -U example.sock`.

use std::env;
use std::io::Write;

use socketserver::{
    HandlerResult, SocketOptions, StreamRequest, ThreadingUnixStreamServer, stream_fn,
};

fn greet(request: &mut StreamRequest) -> HandlerResult {
    // The credentials come from the kernel, so the client cannot forge them.
    let client = request.peer_credentials()?;
    writeln!(request, "you are user {}", client.uid)?;
    Ok(())
}

fn main() -> socketserver::Result<()> {
    let path = env::args().nth(1).unwrap_or("example.sock".to_owned());
    let server = ThreadingUnixStreamServer::builder()
        .socket_options(SocketOptions::default().unix_mode(0o600).unlink_on_close(true))
        .bind(path, stream_fn(greet))?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
