//! Stops in order: at Ctrl-C the server accepts no more clients, requests have two seconds to end, and a report lists those
//! that did not.
//!
//! Try it in two terminals: `nc 127.0.0.1 9999`. Type `work` into one and `hang` into the other; then stop the server.

use std::io::Write;
use std::thread::sleep;
use std::{env, time::Duration};

use socketserver::{HandlerResult, Limits, StreamRequest, ThreadingTcpServer, stream_fn};

fn handle(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    // A client that has typed nothing loses nothing: this read ends at once when the server stops.
    let Some(word) = request.next_line(&mut line)? else { return Ok(()) };
    let looks_up = word == "work";
    writeln!(request, "begun")?;
    loop {
        sleep(Duration::from_millis(100));
        if looks_up && request.is_stopping() {
            writeln!(request, "the server is stopping; the work so far is kept")?;
            return Ok(());
        }
    }
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    let server = ThreadingTcpServer::builder()
        .limits(Limits::default().drain(Duration::from_secs(2)))
        .bind(address, stream_fn(handle))?;
    println!("listening on {}", server.server_address());
    let report = server.run()?;
    println!("{report}");
    Ok(())
}
