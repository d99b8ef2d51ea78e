use socketserver::{ServerHooks, UdpServer, datagram_fn};

struct Quiet;

impl ServerHooks for Quiet {}

fn main() -> socketserver::Result<()> {
    let builder = UdpServer::builder().hooks(Quiet);
    builder.bind("127.0.0.1:0", datagram_fn(|_request| Ok(())))?.serve_forever()
}
