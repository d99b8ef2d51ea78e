//! Hooks that send every failure to the test.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use socketserver::hooks::{Failure, Fault, Panicked, Phase};
use socketserver::request::{LineTooLong, TimedOut, Timeout};
use socketserver::{Address, ServerHooks};

/// A failure, as `handle_error` received it.
#[derive(Clone, Debug)]
pub struct Report {
    pub phase: Phase,
    pub fault: Fault,
    pub error: String,
    pub client_address: Address,
    pub handler: &'static str,
    pub is_disconnect: bool,
    pub panic: Option<String>,
    pub timeout: Option<(Timeout, Duration)>,
    pub line_limit: Option<usize>,
    pub errno: Option<i32>,
}

/// The first error number of the system in the chain of causes.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    number.or_else(|| error.source().and_then(errno_of))
}

/// Hooks that hand every failure to the test.
pub struct Reports {
    to: Sender<Report>,
}

pub fn reports() -> (Reports, Receiver<Report>) {
    let (to, from) = channel();
    (Reports { to }, from)
}

impl Reports {
    pub fn send(&self, failure: &Failure<'_>) {
        let error = failure.error();
        // The test may be over already.
        let _ = self.to.send(Report {
            phase: failure.phase(),
            fault: failure.fault(),
            error: error.to_string(),
            client_address: failure.client_address().clone(),
            handler: failure.handler(),
            is_disconnect: failure.is_disconnect(),
            panic: error.downcast_ref::<Panicked>().map(|panic| panic.message().to_owned()),
            timeout: TimedOut::find(error).map(|timeout| (timeout.which(), timeout.after())),
            line_limit: LineTooLong::find(error).map(LineTooLong::limit_bytes),
            errno: errno_of(error),
        });
    }
}

impl<R> ServerHooks<R> for Reports {
    fn handle_error(&self, failure: &Failure<'_>) {
        self.send(failure);
    }
}
