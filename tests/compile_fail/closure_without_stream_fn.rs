use std::io::Write;

use socketserver::{StreamRequest, TcpServer};

fn main() -> socketserver::Result<()> {
    let server = TcpServer::bind("127.0.0.1:0", |request: &mut StreamRequest| {
        writeln!(request, "hello")?;
        Ok::<(), std::io::Error>(())
    })?;
    server.serve_forever()
}
