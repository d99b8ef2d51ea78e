//! A pool of two threads. A third client at the same time is told that the server is busy.
//!
//! Try it in three terminals: `nc 127.0.0.1 9999`.

use std::env;
use std::io::Write;

use socketserver::mixin::{Refused, WhenFull};
use socketserver::{HandlerResult, Pool, PoolTcpServer, ServerHooks, StreamRequest, stream_fn};

struct SayBusy;

impl ServerHooks for SayBusy {
    // The accept loop calls this, so its writes never wait: an answer that fits into the socket's buffer is sent.
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        writeln!(request, "{why}; please come again in a minute")?;
        Ok(())
    }
}

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    // Without `queue(0)` 1,024 clients wait for a thread; without `Refuse` the third one waits.
    let pool = Pool::new(2).queue(0).when_full(WhenFull::Refuse);
    let builder = PoolTcpServer::builder().mixin(pool).hooks(SayBusy);
    let server = builder.observer(|event| eprintln!("{event}")).bind(address, stream_fn(echo))?;
    println!("listening on {}", server.server_address());
    server.run().map(|_report| ())
}
