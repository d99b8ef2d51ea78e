//! A function as a handler: `stream_fn` makes a handler of a function, or of a closure.
//!
//! Try it: `nc 127.0.0.1 9999`, and type two numbers with a space between them.

use std::env;
use std::io::Write;

use socketserver::{HandlerResult, StreamRequest, ThreadingTcpServer, stream_fn};

fn add(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let sum = text.split_whitespace().map(str::parse::<f64>).sum::<Result<f64, _>>();
        match sum {
            Ok(sum) => writeln!(request, "{sum}")?,
            Err(error) => writeln!(request, "not a number: {error}")?,
        }
    }
    Ok(())
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    let server = ThreadingTcpServer::bind(address, stream_fn(add))?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
