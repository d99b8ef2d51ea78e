use socketserver::{HandlerResult, PoolTcpServer, StreamRequest, StreamRequestHandler};

struct Quiet;

impl StreamRequestHandler for Quiet {
    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        Ok(())
    }
}

fn main() -> socketserver::Result<()> {
    PoolTcpServer::bind("127.0.0.1:0", Quiet)?.serve_forever()
}
