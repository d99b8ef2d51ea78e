//! The same handler under every mixin, chosen by a word: `cargo run -p socketserver --example every_mixin -- forking`. The words
//! are inline, threading, pool, forking and green.
//!
//! Try it in two terminals: `nc 127.0.0.1 9999`. Each answer names the process and the thread that serve the client. Under
//! inline the second client waits for the first; under green a few threads serve all clients.

use std::io::Write;
use std::{env, process, thread};

use socketserver::mixin::Mixin;
use socketserver::{Forking, Green, HandlerResult, Inline, Pool, StreamRequest};
use socketserver::{TcpServer, Threading, stream_fn};

fn where_am_i(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    let thread = thread::current().name().unwrap_or("unnamed").to_owned();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "process {}, thread {thread}: {text}", process::id())?;
    }
    Ok(())
}

fn main() -> socketserver::Result<()> {
    let word = env::args().nth(1).unwrap_or("threading".to_owned());
    let address = env::args().nth(2).unwrap_or("127.0.0.1:9999".to_owned());
    let mixin: Box<dyn Mixin> = match word.as_str() {
        "inline" => Box::new(Inline),
        "pool" => Box::new(Pool::new(4)),
        "forking" => Box::new(Forking::new()),
        "green" => Box::new(Green::new()),
        _ => Box::new(Threading::new()),
    };
    let server = TcpServer::builder().mixin(mixin).bind(address, stream_fn(where_am_i))?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
