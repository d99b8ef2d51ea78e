//! Locks and atomics of a gate's room, and of the parts of `Green` that threads share.
//!
//! `tests/models` replaces them with those of a model checker, which tries every order of the threads' steps.

#[cfg(has_green)]
pub(crate) use std::sync::atomic::AtomicU64;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(has_green)]
pub(crate) use std::thread;

#[cfg(has_green)]
pub(crate) use parking_lot::{Condvar, Mutex};
