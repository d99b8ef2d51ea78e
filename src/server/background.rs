//! A server that runs in a thread beside the program: [`BackgroundServer`].
//!
//! The guard closes the server and joins its thread: by `stop`, which returns the report; by `join`, which first waits
//! until the server has been stopped elsewhere; or by its drop, which returns nothing. Two callers must not wait for
//! that thread: the thread itself, and a child that was forked beside it, which has a copy of the guard and no such
//! thread. And no caller waits for a loop that is still in a request when the close has ended: under `Inline` a handler
//! that ignores its cut would hold the caller for ever, and so would a handler that waits in
//! [`join`](crate::join), if the caller is the other half of that `join`.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::server_close::AFTER_FORCE;
use super::{DrainReport, Server};
use crate::error::{Error, Result};
use crate::mixin::Mixin;
use crate::process::OwnerProcess;
use crate::run_phase::RunPhase;
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
        // Checked before a thread is started: a process that forks must have only one.
        if self.mixin.forks() {
            let why = "forks, which a process with another thread must not: it cannot serve in the \
                       background; run it in the main thread, and stop it by a signal, by a handler \
                       or from another process";
            return Err(Error::state(self.server_address(), why));
        }
        // The thread has a reference of its own: a guard that cannot wait for it may be dropped first.
        let server = Arc::new(self);
        let serving = Arc::clone(&server);
        let (running, ended) = bounded(0);
        let thread = thread::Builder::new()
            .name("serve_forever".into())
            .spawn(move || {
                // Dropped at the end of the loop, even after a panic.
                let _running: Sender<Never> = running;
                serving.serve_forever()
            })
            .map_err(|error| Error::io("start a thread for", server.server_address(), error))?;
        let thread = Some(LoopThread { thread, ended });
        Ok(BackgroundServer { server, thread, stopped: false, owner: OwnerProcess::this_process() })
    }
}

/// A server that runs in its own thread. It can be used like the server itself. Dropping a `BackgroundServer` shuts the
/// server down and closes it, within `Limits::drain`. If a close has already waited for the requests, the drop does not
/// wait for them again.
pub struct BackgroundServer<T: Transport, M: Mixin> {
    /// The server, shared with its thread: it outlives a drop of the guard that does not wait for the thread.
    server: Arc<Server<T, M>>,
    /// None when the thread has been joined.
    thread: Option<LoopThread>,
    /// Whether [`stop`](Self::stop) has begun. The drop then does not close again, not even if a mixin's panic has ended
    /// that close.
    stopped: bool,
    /// The process that has the thread.
    owner: OwnerProcess,
}

/// The thread of the loop.
struct LoopThread {
    thread: JoinHandle<Result<()>>,
    /// Disconnected when the loop has ended.
    ended: Receiver<Never>,
}

/// The type of a channel over which nothing is ever sent.
enum Never {}

impl<T: Transport, M: Mixin> BackgroundServer<T, M> {
    /// The thread to join. `None` in a forked child, because the thread is the parent's, and on the loop's own thread,
    /// which cannot join itself.
    fn thread(&mut self) -> Option<LoopThread> {
        let thread = self.thread.take()?;
        if !self.owner.is_this_process() {
            // The drop of the handle would detach a thread that does not exist in this process.
            std::mem::forget(thread);
            return None;
        }
        // A thread that joins itself waits for ever. Its handle is dropped, which detaches it.
        let is_here = thread.thread.thread().id() == thread::current().id();
        (!is_here).then_some(thread)
    }

    /// Shuts the server down, closes it, and returns the report of the close. On the loop's own thread (in a handler
    /// under `Inline`, or in a hook of the loop) it does not wait, so the loop's result is lost. [`join`](Self::join)
    /// and drop behave the same. The result is lost, too, if the loop is still in a request when the close has ended:
    /// under `Inline`, if a handler goes on after it was cut off. The report then has that request under
    /// [`left_running`](DrainReport::left_running), and the thread ends with the handler.
    ///
    /// # Errors
    ///
    /// The error of `serve_forever`, or a [`Fatal`](crate::Fatal) that a handler has returned after the end of the loop.
    ///
    /// # Panics
    ///
    /// If the loop has panicked, in a hook or in the mixin, or if the mixin panics in the close.
    pub fn stop(mut self) -> Result<DrainReport> {
        // The close stops the loop, so that the join below ends.
        self.stopped = true;
        let report = self.server.server_close();
        match self.result(self.patience()) {
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
    /// If the loop has panicked, in a hook or in the mixin.
    pub fn join(mut self) -> Result<()> {
        self.result(Duration::MAX)
    }

    /// Joins the thread, and returns the loop's result. A panic of the loop goes on here. Returns `Ok` if there is no
    /// thread to join, or if the loop has not ended in this time.
    fn result(&mut self, patience: Duration) -> Result<()> {
        match self.thread().and_then(|thread| thread.joined(patience)) {
            Some(Err(payload)) => std::panic::resume_unwind(payload),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }

    /// How long the loop may take to end after a close: as long as it needs, unless a request is left that may hold it.
    fn patience(&self) -> Duration {
        if self.server.context().live_count() == 0 { Duration::MAX } else { AFTER_FORCE }
    }
}

impl LoopThread {
    /// The result of the loop. A coroutine waits for it on another thread, because its own thread may have to run the
    /// end of the accept loop. Returns `None` if the loop has not ended in this time; its thread then goes on by itself.
    /// Also returns `None` if the coroutine cannot wait, because it is panicking or has been cancelled.
    fn joined(self, patience: Duration) -> Option<thread::Result<Result<()>>> {
        let join = move || match self.ended.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.thread.join()),
            Ok(never) => match never {},
        };
        if wait::is_parked_here() { wait::offload(join).ok().flatten() } else { join() }
    }
}

impl<T: Transport, M: Mixin> Deref for BackgroundServer<T, M> {
    type Target = Server<T, M>;

    fn deref(&self) -> &Server<T, M> {
        &self.server
    }
}

impl<T: Transport, M: Mixin> Drop for BackgroundServer<T, M> {
    fn drop(&mut self) {
        // After a close that has waited, requests that are left have had their time.
        if !self.stopped && self.server.context().run_phase() != RunPhase::Ended {
            // The close also stops the loop, and waits for requests, except on the loop's own thread.
            self.server.server_close();
        }
        let patience = self.patience();
        if let Some(thread) = self.thread() {
            // A drop returns no error, and a panic has been printed by the panic hook.
            let _ = thread.joined(patience);
        }
    }
}

impl<T: Transport, M: Mixin> fmt::Debug for BackgroundServer<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BackgroundServer").field(&self.server).finish()
    }
}
