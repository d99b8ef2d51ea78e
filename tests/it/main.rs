//! All integration tests, in one binary: one link, and one vocabulary of handlers for all.

#[cfg(all(has_green, not(under_green)))]
mod address_space;
mod bad_times;
mod bombs;
mod bounds;
mod checklist;
mod child;
mod closing;
#[cfg(not(under_green))]
mod compile_fail;
#[cfg(has_green)]
mod coroutines;
mod drain;
mod early;
mod events;
mod extension;
mod figures;
mod first_read;
#[cfg(not(under_green))]
mod forks;
#[cfg(all(has_green, not(under_green)))]
mod green;
mod handlers;
mod helpers;
mod inherited;
mod limits;
mod outbox;
mod over_tcp;
mod owned_loop;
mod paths;
mod phases;
mod proxy_protocol;
mod python;
mod queue;
mod ready;
mod regressions;
mod reports;
mod senders;
mod sizes;
mod spins;
mod stop_token;
mod systemd;
mod talking;
#[cfg(not(under_green))]
mod tidy;
#[cfg(feature = "tls")]
mod tls;
mod unreachable;
mod unread_stderr;
mod urgent;
mod whose_fault;
#[cfg(not(under_green))]
mod worker_accept;
mod wrapping;

use test_support as support;
