use std::io::Write;

use socketserver::{HandlerResult, StreamRequest, TcpServer};

fn hello(request: &mut StreamRequest) -> HandlerResult {
    writeln!(request, "hello")?;
    Ok(())
}

fn main() -> socketserver::Result<()> {
    TcpServer::bind("127.0.0.1:0", hello)?.serve_forever()
}
