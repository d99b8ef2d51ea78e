use std::io::Write;

use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler, ThreadingUdpServer};

struct Hello;

impl StreamRequestHandler for Hello {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        writeln!(request, "hello")?;
        Ok(())
    }
}

fn main() -> socketserver::Result<()> {
    ThreadingUdpServer::bind("127.0.0.1:0", || Hello)?.serve_forever()
}
