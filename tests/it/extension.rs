//! A value that a hook sets reaches the handler of the same request, and no other.

use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socketserver::hooks::Incoming;
use socketserver::mixin::Mixin;
use socketserver::request::Request;
use socketserver::{
    DatagramRequest, HandlerError, HandlerResult, Inline, Pool, ServerHooks, StreamRequest,
    StreamRequestHandler, TcpServer, Threading, UdpServer, UnixStreamServer, datagram_fn,
    stream_fn,
};

use crate::support::{SOON, connect, eventually, folder, inet, read_to_end, receive_text};

/// A client's identity, which is its port. The type counts its instances.
struct Visitor {
    port: u16,
    alive: Arc<AtomicUsize>,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Accepts clients with odd ports, and sets their identity.
#[derive(Clone, Default)]
struct Visitors {
    alive: Arc<AtomicUsize>,
}

impl<R: Request> ServerHooks<R> for Visitors {
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        self.alive.fetch_add(2, Ordering::SeqCst);
        incoming.set_extension(Visitor { port: 0, alive: Arc::clone(&self.alive) });
        let port = incoming.client_address().as_inet().map_or(0, |address| address.port());
        // This value takes the place of the first.
        incoming.set_extension(Visitor { port, alive: Arc::clone(&self.alive) });
        assert!(incoming.peer_credentials().is_err(), "there are none over the internet");
        Ok(port % 2 == 1)
    }
}

fn tell(request: &mut StreamRequest) -> HandlerResult {
    assert!(request.extension::<u16>().is_none(), "it is of another type");
    let port = request.extension::<Visitor>().map_or(0, |visitor| visitor.port);
    Ok(writeln!(request, "{port}")?)
}

fn each_handler_has_what_was_found_out_of_its_client<M: Mixin + 'static>(mixin: M) {
    let visitors = Visitors::default();
    let server = TcpServer::builder()
        .mixin(mixin)
        .hooks(visitors.clone())
        .bind("127.0.0.1:0", stream_fn(tell))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut clients: Vec<_> = (0..20).map(|_| connect(inet(&*server))).collect();
    for client in &mut clients {
        let port = client.local_addr().unwrap().port();
        let expected = if port % 2 == 1 { format!("{port}\n") } else { String::new() };
        assert_eq!(String::from_utf8(read_to_end(client)).unwrap(), expected);
    }
    eventually("all of it is dropped with its request", || {
        visitors.alive.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn each_handler_has_what_was_found_out_of_its_client_inline() {
    each_handler_has_what_was_found_out_of_its_client(Inline);
}

#[test]
fn each_handler_has_what_was_found_out_of_its_client_threading() {
    each_handler_has_what_was_found_out_of_its_client(Threading::new());
}

#[test]
fn each_handler_has_what_was_found_out_of_its_client_pool() {
    each_handler_has_what_was_found_out_of_its_client(Pool::new(3));
}

#[test]
fn a_datagram_has_what_was_found_out_of_its_sender() {
    let handler = datagram_fn(|request: &mut DatagramRequest| {
        let port = request.extension::<Visitor>().map_or(0, |visitor| visitor.port);
        request.reply(port.to_string().as_bytes())?;
        Ok(())
    });
    let server = UdpServer::builder().hooks(Visitors::default()).bind("127.0.0.1:0", handler);
    let server = server.unwrap().serve_in_background().unwrap();
    let client = (0..100)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .find(|socket| socket.local_addr().unwrap().port() % 2 == 1)
        .expect("an odd port");
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"who am I?", inet(&*server)).unwrap();
    let port = client.local_addr().unwrap().port();
    assert_eq!(receive_text(&client), port.to_string());
}

/// Leaves something in each step for the next one.
struct Steps;

impl ServerHooks<StreamRequest> for Steps {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        assert!(request.extension::<Vec<&str>>().is_none(), "nobody has left anything yet");
        request.set_extension(vec!["wrap_request"]);
        Ok(())
    }
}

impl StreamRequestHandler for Steps {
    fn setup(&mut self, request: &mut StreamRequest) -> HandlerResult {
        request.extension_mut::<Vec<&str>>().ok_or("nothing there")?.push("setup");
        Ok(())
    }

    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let steps = request.extension::<Vec<&str>>().ok_or("nothing there")?.join(", ");
        Ok(writeln!(request, "{steps}")?)
    }
}

#[test]
fn a_later_step_has_what_an_earlier_one_has_left() {
    let server = TcpServer::builder().hooks(Steps).bind("127.0.0.1:0", || Steps).unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"wrap_request, setup\n");
}

/// Accepts only the current user, by the kernel's credentials.
struct SameUser;

impl ServerHooks<StreamRequest> for SameUser {
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        let credentials = incoming.peer_credentials()?;
        incoming.set_extension(credentials);
        Ok(credentials.pid == Some(i32::try_from(std::process::id())?))
    }
}

#[test]
fn verify_request_sees_the_credentials_of_a_unix_peer() {
    let folder = folder();
    let path = folder.path().join("s");
    let handler = stream_fn(|request| {
        let found = request.extension::<socketserver::request::Credentials>().copied();
        let same = found == Some(request.peer_credentials()?);
        Ok(writeln!(request, "{same}")?)
    });
    let server = UnixStreamServer::builder().hooks(SameUser).bind(&path, handler).unwrap();
    let _server = server.serve_in_background().unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(read_to_end(&mut client), b"true\n");
}
