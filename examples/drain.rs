//! Ends in order: at Ctrl-C the server accepts no more, requests have two seconds to come to their end, and a report says
//! which of them did not.
//!
//! Try it in two terminals: `nc 127.0.0.1 9999`. Type `work` into one and `hang` into the other; then stop the server.

use std::io::Write;
use std::thread::sleep;
use std::{env, time::Duration};

use socketserver::{HandlerResult, Limits, StreamRequest, ThreadingTcpServer, stream_fn};

fn handle(request: &mut StreamRequest) -> HandlerResult {
    // A client that has typed nothing is let go at once when the server stops: it loses nothing.
    let mut line = String::new();
    let work = request.next_line(&mut line)?.map(str::to_owned);
    writeln!(request, "begun")?;
    while work.is_some() {
        sleep(Duration::from_millis(100));
        if request.is_stopping() && work.as_deref() == Some("work") {
            writeln!(request, "the server is stopping; the work so far is kept")?;
            return Ok(());
        }
    }
    Ok(())
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
