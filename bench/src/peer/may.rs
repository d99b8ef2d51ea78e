//! may_minihttp: a small HTTP server on stackful coroutines.

use std::io;
use std::net::TcpListener;

use may_minihttp::{HttpService, HttpServiceFactory, Request, Response};

use super::{Mode, announce, unsupported};

#[derive(Clone, Copy)]
struct Hello;

impl HttpService for Hello {
    fn call(&mut self, _: Request<'_, '_, '_>, response: &mut Response<'_>) -> io::Result<()> {
        response.header("Content-Type: text/plain").body("Hello, World");
        Ok(())
    }
}

impl HttpServiceFactory for Hello {
    type Service = Self;

    fn new_service(&self, _: usize) -> Self {
        *self
    }
}

pub fn serve(mode: Mode) -> io::Result<()> {
    if mode != Mode::Web {
        return unsupported();
    }
    // It does not say which port it has been given, so it is given one that was free.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let server = Hello.start(address)?;
    announce(address)?;
    server.join().map_err(|_| io::Error::other("the server has ended"))
}
