use socketserver::UnixStreamServer;

struct Plain;

fn main() -> socketserver::Result<()> {
    UnixStreamServer::bind("/tmp/plain.sock", || Plain)?.serve_forever()
}
