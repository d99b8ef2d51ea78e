//! Waiting, for mixins that run many requests on one thread.

pub use crate::wait::{
    Event, Installed, Interest, Parker, Slot, Waiting, flush, install, offload, sleep,
};
