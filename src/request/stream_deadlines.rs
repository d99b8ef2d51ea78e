//! What a handler says of time: how long its peer has, and how long the connection stays for it in the end.

use std::time::Duration;

use super::{Deadline, Request, StreamRequest};
use crate::error::Timeout;

impl StreamRequest {
    /// Python's `timeout`: how long one read or write may take, instead of the server's idle, read and
    /// write limits. None brings those back. When it fires, the error is of kind `TimedOut`.
    ///
    /// A whole line is one read, and so is an exact number of bytes: a peer that sends a byte a second has
    /// no more time than others. A write has so long without progress, as with [`Limits::write`](crate::Limits::write).
    /// [`Duration::MAX`] is for ever; zero takes or sends what can be at once, and does not wait. What has several
    /// reads, a login say, is bounded as a whole by [`deadline_in`](Self::deadline_in).
    #[doc(alias = "settimeout")]
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.channel.timeout = timeout;
    }

    /// Bounds all that follows together, however many reads and writes that are: so long from now. None takes the
    /// bound away again. When it fires, the error is of kind `TimedOut`, and says
    /// [`Timeout::Deadline`]; so does every wait after it, until there is another bound.
    ///
    /// The server's limits hold beside it, and the earlier moment counts: nothing is lifted by a long one, and
    /// [`Limits::request`](crate::Limits::request) goes on when it is taken away.
    /// ([`set_server_deadline`](Request::set_server_deadline) lifts that.) [`Duration::MAX`] is no bound; with zero nothing
    /// waits. A bound that `wrap_request` has set ends with it.
    ///
    /// A login is several reads, and a peer that takes its time for each is bounded by it so:
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::{HandlerResult, StreamRequest, stream_fn};
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     let (mut name, mut password) = (String::new(), String::new());
    ///     request.deadline_in(Duration::from_secs(30));
    ///     write!(request, "name: ")?;
    ///     let Some(_name) = request.next_line(&mut name)? else { return Ok(()) };
    ///     write!(request, "password: ")?;
    ///     let Some(_password) = request.next_line(&mut password)? else { return Ok(()) };
    ///     // Who is in has the server's limits.
    ///     request.deadline_in(None);
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    ///
    /// The `?` makes a failure of every client that stays silent, and
    /// [`handle_error`](crate::ServerHooks::handle_error) prints each on stderr. A handler that takes them for a part of
    /// life looks at the error first, and ends quietly:
    ///
    /// ```
    /// use socketserver::{HandlerResult, StreamRequest, TimedOut, stream_fn};
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     # let mut line = String::new();
    ///     # request.deadline_in(std::time::Duration::from_secs(30));
    ///     let _name = match request.next_line(&mut line) {
    ///         Ok(Some(name)) => name,
    ///         Ok(None) => return Ok(()),
    ///         Err(error) if TimedOut::find(&error).is_some() => return Ok(()),
    ///         Err(error) => return Err(error.into()),
    ///     };
    ///     # request.deadline_in(None);
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    pub fn deadline_in(&mut self, after: impl Into<Option<Duration>>) {
        let deadline = after.into().and_then(|after| Deadline::after(Timeout::Deadline, after));
        self.channel.deadlines.set_handler(deadline);
    }

    /// Says that the peer may still be sending when this request ends, so that its connection stays open for a while
    /// ([`Limits::linger`](crate::Limits::linger)) and the peer can read the answer.
    ///
    /// A system that receives something for a closed connection answers with a reset, and a reset makes the peer's
    /// system throw away what its program has not read yet. So an answer is lost that is given before the peer has sent
    /// everything: "too large" to an upload, of which nothing has come yet but the line that announces it. The server
    /// sees by itself that more has come than was read, that much has come, that a read has ended in the middle, that
    /// the handler has failed, and that a request is refused. What it cannot see without a system call more for every
    /// short request is a peer that has paused; a handler that answers early knows of it:
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::{HandlerResult, StreamRequest, stream_fn};
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     let mut line = String::new();
    ///     let Some(size) = request.next_line(&mut line)? else { return Ok(()) };
    ///     if size.parse::<u64>()? > 1_000_000 {
    ///         request.expect_more_input();
    ///         writeln!(request, "too large")?;
    ///         return Ok(());
    ///     }
    ///     // ..
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    pub fn expect_more_input(&mut self) {
        Request::expect_more_input(self);
    }
}
