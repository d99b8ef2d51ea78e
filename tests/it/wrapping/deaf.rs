//! Wrappers that do not pass deadlines on: each limit still holds, and only for the step it belongs to.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::monitor::CloseReason;
use socketserver::request::Stream;
use socketserver::{HandlerResult, StreamRequest};

use super::{MOMENT, Served, Way, patient, serve_with};
use crate::support::{exchange, read_line};

/// Passes everything on, but deadlines only if the test says so.
struct Thin {
    inner: Box<dyn Stream>,
    passes_deadlines: bool,
}

impl Read for Thin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl Write for Thin {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Thin {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        if self.passes_deadlines {
            self.inner.set_deadline(deadline);
        }
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fileno()
    }
}

pub(super) fn wrap_thinly(request: &mut StreamRequest, passes_deadlines: bool) -> HandlerResult {
    Ok(request.wrap_stream(|inner| Ok(Box::new(Thin { inner, passes_deadlines })))?)
}

/// The layers of each case, the lowest first: each is true if it passes deadlines on.
const LAYERS: [&[bool]; 4] = [&[false], &[false, false], &[true, false], &[false, true]];

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

/// Asserts that a client that says nothing until the bound has passed is answered all the same.
#[track_caller]
fn outlives(served: &Served, layers: &[bool]) {
    let mut client = served.bare();
    assert_eq!(read_line(&mut client), "here\n", "{layers:?}");
    // The handler is in the middle of its read by now.
    thread::sleep(MOMENT);
    assert_eq!(exchange(&mut client, "two"), "two\n", "{layers:?}");
    drop(client);
    served.assert_ends_as(CloseReason::Completed);
}

#[test]
fn the_bound_of_a_handshake_ends_with_it() {
    for layers in LAYERS {
        let limits = patient().handshake(Duration::from_secs(1));
        let wrap = move |request: &mut StreamRequest| {
            layers.iter().try_for_each(|passes| wrap_thinly(request, *passes))
        };
        let served = serve_with(Way::Hook, limits, wrap, |request| {
            thread::sleep(Duration::from_millis(1_100));
            request.write_all(b"here\n")?;
            echo(request)
        });
        outlives(&served, layers);
    }
}

#[test]
fn a_deadline_that_is_lifted_behind_a_handshake_is_lifted() {
    for layers in LAYERS {
        let wrap = move |request: &mut StreamRequest| {
            request.deadline_in(Some(Duration::from_secs(1)));
            layers.iter().try_for_each(|passes| wrap_thinly(request, *passes))?;
            request.deadline_in(None);
            Ok(())
        };
        let served = serve_with(Way::Hook, patient(), wrap, |request| {
            thread::sleep(Duration::from_millis(1_100));
            request.write_all(b"here\n")?;
            echo(request)
        });
        outlives(&served, layers);
    }
}

#[test]
fn the_bound_of_a_call_is_not_that_of_the_next_wrappers_handshake() {
    for passes in [true, false] {
        let served = serve_with(
            Way::Hook,
            patient(),
            move |request| wrap_thinly(request, passes),
            move |request| {
                request.deadline_in(Some(Duration::from_secs(1)));
                request.write_all(b"go ahead\n")?;
                request.deadline_in(None);
                thread::sleep(Duration::from_millis(1_100));
                request.wrap_stream(|mut inner| {
                    inner.write_all(b"here\n")?;
                    // The next bytes come later.
                    inner.read_exact(&mut [0; 4])?;
                    inner.write_all(b"two\n")?;
                    Ok(Box::new(Thin { inner, passes_deadlines: true }))
                })?;
                echo(request)
            },
        );
        let mut client = served.bare();
        assert_eq!(read_line(&mut client), "go ahead\n");
        assert_eq!(read_line(&mut client), "here\n", "{passes}");
        thread::sleep(MOMENT);
        assert_eq!(exchange(&mut client, "one"), "two\n", "{passes}");
        assert_eq!(exchange(&mut client, "and on"), "and on\n");
    }
}

#[test]
fn a_handshake_below_a_wrapper_that_passes_no_deadlines_on_is_bounded() {
    for passes in [true, false] {
        let limits = patient().handshake(MOMENT);
        let served = serve_with(
            Way::Hook,
            limits,
            move |request| wrap_thinly(request, passes),
            |request| {
                Ok(request.wrap_stream(|mut inner| {
                    inner.read_exact(&mut [0; 4])?;
                    Ok(Box::new(Thin { inner, passes_deadlines: true }))
                })?)
            },
        );
        let _silent = served.bare();
        served.assert_ends_as(CloseReason::TimedOut);
    }
}
