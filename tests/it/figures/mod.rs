//! Figures for operators: the facts that events tell of a request, the figures of a server, and the facades that carry both.

mod ends;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "metrics")]
mod recorder;
mod server;
#[cfg(feature = "tracing")]
mod subscriber;
#[cfg(feature = "tracing")]
mod tracing;
