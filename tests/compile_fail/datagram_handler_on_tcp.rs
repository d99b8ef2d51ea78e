use socketserver::{DatagramRequest, DatagramRequestHandler, HandlerResult, TcpServer};

struct Echo;

impl DatagramRequestHandler for Echo {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(request.packet())?;
        Ok(())
    }
}

fn main() -> socketserver::Result<()> {
    TcpServer::bind("127.0.0.1:0", || Echo)?.serve_forever()
}
