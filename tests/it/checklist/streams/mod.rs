//! Connections as their handlers see them: rows 83 to 90, and the behaviour of lines, limits and ends of input.

mod held_back;
mod input;
mod output;
mod timeouts;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::hooks::Failure;
use socketserver::request::Stream;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerResult, Limits, ServerHooks, StreamRequest, Threading,
    ThreadingTcpServer, stream_fn,
};

use crate::over_tcp::leave_to_inner_stream;
use crate::reports::{Report, reports};
use crate::support::SOON;

/// The calls that a [`Counting`] stream has seen.
#[derive(Default)]
struct Traffic {
    receives: AtomicUsize,
    /// How many bytes were asked for at once, at the most.
    asked: AtomicUsize,
    /// The bytes that each send accepted.
    sends: Mutex<Vec<Vec<u8>>>,
}

impl Traffic {
    fn sends(&self) -> Vec<String> {
        let sends = self.sends.lock().unwrap();
        sends.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

/// A connection that counts its calls, each of which moves `at_once` bytes at most.
struct Counting {
    inner: Box<dyn Stream>,
    traffic: Arc<Traffic>,
    at_once: usize,
    /// If this is set, every other call fails as if a signal had interrupted it.
    interrupted: Option<bool>,
}

impl Counting {
    fn interrupts(&mut self) -> io::Result<()> {
        match &mut self.interrupted {
            Some(now) => {
                *now = !*now;
                if *now { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }
}

impl Read for Counting {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupts()?;
        self.traffic.asked.fetch_max(buf.len(), Ordering::SeqCst);
        let most = buf.len().min(self.at_once);
        let count = self.inner.read(&mut buf[..most])?;
        self.traffic.receives.fetch_add(1, Ordering::SeqCst);
        Ok(count)
    }
}

impl Write for Counting {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.interrupts()?;
        let most = buf.len().min(self.at_once);
        let count = self.inner.write(&buf[..most])?;
        self.traffic.sends.lock().unwrap().push(buf[..count].to_vec());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Counting {
    leave_to_inner_stream!();
}

/// Hooks that put a [`Counting`] stream around every connection.
struct Count {
    traffic: Arc<Traffic>,
    at_once: usize,
    interrupted: bool,
}

impl ServerHooks<StreamRequest> for Count {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        let (traffic, at_once) = (Arc::clone(&self.traffic), self.at_once);
        let interrupted = self.interrupted.then_some(false);
        request
            .wrap_stream(|inner| Ok(Box::new(Counting { inner, traffic, at_once, interrupted })))?;
        Ok(())
    }

    /// The test sees failures by other means.
    fn handle_error(&self, _failure: &Failure<'_>) {}
}

fn counting() -> (Count, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let counted = Arc::clone(&traffic);
    (Count { traffic: counted, at_once: usize::MAX, interrupted: false }, traffic)
}

/// A server whose handler is a function, and the reports of its failures.
fn serve(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, Threading>, Receiver<Report>) {
    let (reports, reported) = reports();
    let server = ThreadingTcpServer::builder()
        .hooks(reports)
        .limits(limits)
        .bind("127.0.0.1:0", stream_fn(handle))
        .unwrap();
    (server.serve_in_background().unwrap(), reported)
}

/// Limits that do not end a test before its own patience does.
fn patient() -> Limits {
    Limits::default().idle(2 * SOON).read(2 * SOON).write(2 * SOON)
}

/// The bytes that a large answer is made of; no two neighbouring pages are alike.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index / 251 + index) as u8).collect()
}

const SIXTEEN_MIB_AND_ONE: usize = 16 * 1024 * 1024 + 1;

const MOMENT: Duration = Duration::from_millis(50);
