//! Models of the data that the threads of `Green`, and the loops of a gate, share: each model runs once for each order of its
//! threads' steps, with as many interruptions as it allows. The model `room` is of another kind: the protocol of the chat's
//! room on several servers. Some of the chat's own sources are there as well.
//!
//! The sources are the library's own, by `#[path]`. The rest is played:
//!
//! | here | in the library |
//! |---|---|
//! | `sys::sync`: the checker's locks, atomics and threads | parking_lot's and std's |
//! | `sys::coroutine::switch`: a coroutine is a list of pieces, and each resume runs one | a stack of its own |
//! | `wait::Event`: a flag under a lock | a descriptor in an epoll set |
//! | `green::Group`: workers, whose loop reads the inbox and resumes | `mixin/green/mod.rs`, `worker.rs` |
//!
//! `cargo test -p models --release` runs them. The comment of each model names breaks of its protocol with which it
//! fails.

#![cfg(test)]
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "the library's sources have more than the models use"
)]

#[path = "../../src/on_drop.rs"]
mod on_drop;
#[path = "../../src/panic_payload.rs"]
mod panic_payload;
mod sys;
mod wait;

mod error {
    //! Errors, of which a model has none.

    pub(crate) type Result<T> = std::result::Result<T, Error>;

    #[derive(Debug)]
    pub(crate) struct Error;

    impl Error {
        pub(crate) fn io(_operation: &str, _object: &str, _error: std::io::Error) -> Self {
            Self
        }
    }
}

mod mixin {
    //! A request, by its number.

    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Job(pub(crate) u32);
}

mod name {
    //! Names of servers and members, of ASCII's letters and digits alone.

    pub(crate) fn check_name(name: &str) -> Result<(), String> {
        let fits = |one: char| one.is_ascii_alphanumeric() || one == '\'';
        if name.chars().all(fits) { Ok(()) } else { Err(name.to_owned()) }
    }

    pub(crate) fn fold(name: &str) -> String {
        name.to_ascii_lowercase()
    }
}

mod protocol {
    //! Texts of lines, which are empty here.

    pub(crate) fn clean(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    pub(crate) fn clean_name(bytes: &[u8]) -> String {
        clean(bytes)
    }

    pub(crate) fn quoted(text: &str) -> String {
        format!("\"{text}\"")
    }
}

mod exclusive;
mod gate;
mod green;
mod room;

/// Tries all orders of a model's steps in which threads are interrupted this many times in all.
fn check(interruptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(model);
}
