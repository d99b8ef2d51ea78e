//! A server of this crate in a program with tokio: handlers wait for async code, async code serves beside them, and one
//! stop ends both.
//!
//! Try it: `cargo run --bin with-tokio`, then `nc 127.0.0.1 9999` for this crate's side, and `nc 127.0.0.1 9998` for
//! tokio's. SIGTERM and Ctrl-C stop both.

use std::{env, io, io::Write, time::Duration};

use socketserver::{ThreadingTcpServer, stream_fn};
use tokio::{io::AsyncWriteExt, net::TcpListener, runtime::Handle, task, time};

/// Tokio's side. It ends with its first failure.
async fn greet(listener: TcpListener) -> io::Result<()> {
    loop {
        listener.accept().await?.0.write_all(b"hello from tokio\n").await?;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let at = |number, usual: &str| env::args().nth(number).unwrap_or(usual.to_owned());
    let tokio = Handle::current();
    // A handler has a thread of its own, and may wait there for async code.
    let late = stream_fn(move |request| {
        tokio.block_on(async { time::sleep(Duration::from_millis(100)).await });
        Ok(request.write_all(b"hello from a thread, after a timer of tokio's\n")?)
    });
    let server = ThreadingTcpServer::bind(at(1, "127.0.0.1:9999"), late)?;
    let listener = TcpListener::bind(at(2, "127.0.0.1:9998")).await?;
    println!("listening on {} and {}", server.server_address(), listener.local_addr()?);

    // `run` handles the signals and drains; then tokio's side ends. If tokio's side fails first, the server is stopped too.
    let stop = server.shutdown_handle();
    let mut serving = task::spawn_blocking(move || server.run());
    tokio::select! {
        report = &mut serving => println!("{}", report??),
        failed = greet(listener) => { stop.shutdown(); println!("{}", serving.await??); failed? }
    }
    Ok(())
}
