//! A server that runs in a thread beside the program: [`BackgroundServer`].
//!
//! The guard closes the server and joins its thread: by `stop`, which returns the report; by `join`, which first waits
//! until the server has been stopped elsewhere; or by its drop, which returns nothing. Two callers must not wait for
//! that thread: the thread itself, and a child that was forked beside it, which has a copy of the guard and no such
//! thread.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::{DrainReport, Server};
use crate::error::{Error, Result};
use crate::mixin::Mixin;
use crate::process::OwnerProcess;
use crate::transport::Transport;
use crate::wait;

impl<T: Transport, M: Mixin + 'static> Server<T, M> {
    /// Serves in a thread of its own, until the guard is stopped or dropped. For tests, and for
    /// programs whose main thread has other work.
    ///
    /// # Errors
    ///
    /// If no thread can be started, or if the mixin forks: forking needs a process with one thread.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::TcpStream;
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hello = stream_fn(|request| Ok(request.write_all(b"hello\n")?));
    /// let server = ThreadingTcpServer::bind("127.0.0.1:0", hello)?.serve_in_background()?;
    /// let address = server.server_address().as_inet().expect("a TCP server has one");
    /// let mut answer = String::new();
    /// TcpStream::connect(address)?.read_to_string(&mut answer)?;
    /// assert_eq!(answer, "hello\n");
    /// assert!(server.stop()?.is_clean());
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_in_background(self) -> Result<BackgroundServer<T, M>> {
        // Before a thread is started: a process that forks must have only one.
        if self.mixin.forks() {
            let why = "forks, which a process with another thread must not: it cannot serve in the \
                       background; run it in the main thread, and stop it by a signal, by a handler \
                       or from another process";
            return Err(Error::state(self.server_address(), why));
        }
        // The thread has a reference of its own: a guard that cannot wait for it may be dropped first.
        let server = Arc::new(self);
        let serving = Arc::clone(&server);
        let thread = thread::Builder::new()
            .name("serve_forever".into())
            .spawn(move || serving.serve_forever())
            .map_err(|error| Error::io("start a thread for", server.server_address(), error))?;
        Ok(BackgroundServer { server, thread: Some(thread), owner: OwnerProcess::this_process() })
    }
}

/// A server that runs in its own thread. It can be used like the server itself. Dropping a `BackgroundServer` shuts the
/// server down and closes it, within `Limits::drain`.
pub struct BackgroundServer<T: Transport, M: Mixin> {
    /// Shared with the thread, so that the server outlives a drop that does not wait for it.
    server: Arc<Server<T, M>>,
    /// None when the thread has been joined.
    thread: Option<JoinHandle<Result<()>>>,
    /// The process that has the thread.
    owner: OwnerProcess,
}

impl<T: Transport, M: Mixin> BackgroundServer<T, M> {
    /// The thread to join. None in a forked child, because the thread is the parent's. None on the loop's own thread,
    /// which cannot join itself.
    fn thread(&mut self) -> Option<JoinHandle<Result<()>>> {
        let thread = self.thread.take()?;
        if !self.owner.is_this_process() {
            // The drop of the handle would detach a thread that does not exist in this process.
            std::mem::forget(thread);
            return None;
        }
        // A thread that joins itself waits for ever. Its handle is dropped, which detaches it.
        let is_here = thread.thread().id() == thread::current().id();
        (!is_here).then_some(thread)
    }

    /// Shuts the server down, closes it, and returns the report of the close. On the loop's own thread (in a handler
    /// under `Inline`, or in a hook of the loop) it does not wait, so the loop's result is lost. [`join`](Self::join)
    /// and drop behave the same.
    ///
    /// # Errors
    ///
    /// The error of `serve_forever`, or a [`Fatal`](crate::Fatal) that a handler has returned since.
    ///
    /// # Panics
    ///
    /// If the loop has panicked, in a hook or in the mixin.
    pub fn stop(mut self) -> Result<DrainReport> {
        // The close stops the loop, so that the join below ends.
        let report = self.server.server_close();
        match self.result() {
            // The server was closed before the run began; for this call that is not a failure.
            Err(error) if error.is_closed() => {}
            result => result?,
        }
        // A handler may have returned a `Fatal` in the drain, after the run had ended.
        self.server.core.context.runs.take_failure().map_or(Ok(report), Err)
    }

    /// Waits until `serve_forever` has returned by itself, and returns its result.
    ///
    /// # Errors
    ///
    /// The error of `serve_forever`.
    ///
    /// # Panics
    ///
    /// The same as for [`stop`](Self::stop).
    pub fn join(mut self) -> Result<()> {
        self.result()
    }

    /// Joins the thread, and returns the loop's result. A panic of the loop goes on here. Returns `Ok` if there is no
    /// thread to join.
    fn result(&mut self) -> Result<()> {
        match self.thread().and_then(joined) {
            Some(Err(payload)) => std::panic::resume_unwind(payload),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }
}

/// The result of the thread that serves. A coroutine waits for it on another thread, because its own thread may have
/// to run the end of the accept loop. None: the coroutine cannot wait, because it is panicking or has been cancelled.
fn joined(thread: JoinHandle<Result<()>>) -> Option<thread::Result<Result<()>>> {
    if wait::is_parked_here() {
        return wait::offload(|| thread.join()).ok();
    }
    Some(thread.join())
}

impl<T: Transport, M: Mixin> Deref for BackgroundServer<T, M> {
    type Target = Server<T, M>;

    fn deref(&self) -> &Server<T, M> {
        &self.server
    }
}

impl<T: Transport, M: Mixin> Drop for BackgroundServer<T, M> {
    fn drop(&mut self) {
        // The close also stops the loop, and waits for requests, except on the loop's own thread.
        self.server.server_close();
        if let Some(thread) = self.thread() {
            // A drop returns no error, and a panic has been printed by the panic hook.
            let _ = joined(thread);
        }
    }
}

impl<T: Transport, M: Mixin> fmt::Debug for BackgroundServer<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BackgroundServer").field(&self.server).finish()
    }
}
