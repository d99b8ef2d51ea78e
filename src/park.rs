//! Waiting. Every wait of a server or a request goes through one function of this crate. This module lets a mixin
//! replace that function.
//!
//! On a plain thread, a wait blocks the thread. A mixin that runs many requests on one thread, as coroutines, implements
//! [`Parker`] and [`install`]s it on its threads. From then on every read, write, accept and [`sleep`] that
//! would block calls [`Parker::park`], which suspends the coroutine. Handlers and transports stay as they are.
//!
//! ```text
//!   handler          this crate                     the mixin's Parker             its loop
//!   read()      →    recv: would block         →    park(fd, until)
//!                                                   registers fd, switches    →    resumes others
//!                                                                                  flush(), epoll_wait
//!                                                   returns                   ←    fd is ready
//!               ←    recv: data                ←
//! ```
//!
//! # Writing a parker
//!
//! 1. [`install`] it on each thread that runs requests. The guard removes it.
//! 2. [`park`](Parker::park) suspends the caller until one of the [`Waiting`] descriptors is ready or the deadline has
//!    passed. Returning early is allowed: the caller tries again. A thread that is panicking never calls it.
//! 3. A connection has a [`Slot`], in which the parker may note that its descriptor is registered. When the descriptor
//!    is about to be closed, [`forget`](Parker::forget) is called if the slot is not zero. Descriptors without a slot
//!    are listeners and events, for which several threads may wait: register them for one wait only.
//!    The two directions of a connection share one slot, and a handler may wait for both at once ([`join`](crate::join)):
//!    one coroutine with [`Interest::Read`], another with [`Interest::Write`]. If [`spawn`](Parker::spawn) runs nothing, as
//!    by default, `join` uses a thread in place of the second coroutine, and that thread does not park.
//! 4. Before the thread itself waits, it calls [`flush`]: replies to datagrams are held back until then, so
//!    that one system call sends many.
//!
//! The smallest parker has no coroutines. It only waits, and returns:
//!
//! ```
//! use std::io;
//! use std::os::fd::BorrowedFd;
//! use std::rc::Rc;
//! use std::time::{Duration, Instant};
//! use socketserver::park::{self, Parker, Slot, Waiting};
//!
//! /// Polls every millisecond. A real one switches to another coroutine here.
//! struct Polling;
//!
//! impl Parker for Polling {
//!     fn park(&self, _waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()> {
//!         park::flush();
//!         let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
//!         std::thread::sleep(left.unwrap_or(Duration::MAX).min(Duration::from_millis(1)));
//!         Ok(())
//!     }
//!
//!     fn forget(&self, _fd: BorrowedFd<'_>, _slot: &Slot) {}
//! }
//!
//! let _installed = park::install(Rc::new(Polling));
//! park::sleep(Duration::from_millis(5));
//! ```
//!
//! A mixin installs its parker around the loop, in [`Mixin::serve`](crate::mixin::Mixin::serve), and starts a coroutine
//! for each job in `process_request`. `tests/it/coroutines.rs` in the repository is a complete parker, on epoll.
//!
//! # For handlers
//!
//! A handler that may run as a coroutine must not block its thread, because every other request of that thread would
//! wait with it. The request itself never blocks the thread, nor does anything else of this crate that waits. On a
//! plain thread the calls on the right do the same as those on the left:
//!
//! | blocks the thread | waits as a request does |
//! |---|---|
//! | `std::thread::sleep` | [`sleep`] |
//! | `TcpStream::connect`, a look-up of a name | [`connect`](crate::outgoing::connect) |
//! | a file, a database, a program's end, a long computation | [`offload`], or a thread of its own |
//! | `std::thread::scope`, a thread's `join` | [`join`](crate::join) |
//! | a `Condvar`, a channel's `recv` | [`Event::wait`], with the state kept beside the event; for messages to a client an [`Outbox`](crate::Outbox); for a stop the [`StopToken`](crate::request::StopToken) |
//! | a `Mutex` that is held across a wait | a `Mutex` that is held for a few lines without a read, a write or another wait in them |
//!
//! The `Mutex` is worse than slow: the next coroutine of the same thread that locks it blocks the only thread that
//! could unlock it, for ever. A mutex that is not held across a wait is right, and the fastest: std's or
//! `parking_lot`'s. Beware of `match map.lock().unwrap().get(key) { .. }`: it holds the lock to its closing brace,
//! with every write in its arms. Take what is needed out first: `let value = map.lock().unwrap().get(key).cloned();`.
//!
//! A queue that handlers wait for is a mutex and an event. The sender changes the state first and then notifies. The
//! waiter clears the event, checks the state, and only then waits. So no message is lost between the check and the
//! wait:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::io;
//! use std::sync::Mutex;
//! use socketserver::park::Event;
//!
//! /// Messages for one handler, from any thread.
//! struct Queue {
//!     messages: Mutex<VecDeque<String>>,
//!     has_more: Event,
//! }
//!
//! impl Queue {
//!     fn send(&self, message: String) {
//!         self.messages.lock().unwrap().push_back(message);
//!         self.has_more.notify();
//!     }
//!
//!     fn receive(&self) -> io::Result<String> {
//!         loop {
//!             self.has_more.clear();
//!             // The lock ends with this line, before the wait.
//!             let next = self.messages.lock().unwrap().pop_front();
//!             match next {
//!                 Some(message) => return Ok(message),
//!                 None => self.has_more.wait(None)?,
//!             };
//!         }
//!     }
//! }
//!
//! # fn main() -> io::Result<()> {
//! let queue = Queue { messages: Mutex::default(), has_more: Event::new()? };
//! queue.send("hello".to_owned());
//! assert_eq!(queue.receive()?, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # For transports and mixins
//!
//! [`Event`] is a descriptor that one side makes readable and another side waits for. A transport without a socket
//! returns one from `fileno`, and a mixin from `event_fd`.
//!
//! # Stability
//!
//! [`Interest`] may get more variants, [`Waiting`] more fields, and [`Parker`] more methods with a default. The two
//! methods without a default, which the workers of `Green` implement too, may still change before 1.0.

pub use crate::wait::{
    Cancelled, Event, Installed, Interest, Parker, Slot, Waiting, flush, install, offload, shield,
    sleep,
};
