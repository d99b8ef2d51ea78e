use std::io::Write;

use socketserver::TcpServer;

fn main() -> socketserver::Result<()> {
    let server = TcpServer::bind("127.0.0.1:0", |request| {
        writeln!(request, "hello")?;
        Ok(())
    })?;
    server.serve_forever()
}
