use std::time::Duration;

use socketserver::{Limits, TcpServer, stream_fn};

fn main() -> socketserver::Result<()> {
    let limits = Limits { idle: Duration::from_secs(5), ..Limits::default() };
    let server = TcpServer::builder().limits(limits);
    server.bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?.serve_forever()
}
