//! Locks and atomics of the parts of `Green` that threads share. `tests/models` replaces them by those of a model
//! checker, which tries every order of the threads' steps.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::thread;

pub(crate) use parking_lot::{Condvar, Mutex};
