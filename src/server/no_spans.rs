//! No spans: the feature `tracing` is off, and each of these calls does nothing. The names and arguments are those of
//! `spans.rs`, so that no caller has a `cfg`.

use super::failure::Failure;
use crate::events::CloseReason;
use crate::live::Entry;
use crate::server_context::ServerContext;

/// Requests have no spans.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spans {}

impl Spans {
    #[inline]
    pub(super) fn enter(self, _context: &ServerContext, _entry: &Entry) -> RequestSpan {
        RequestSpan
    }

    #[inline]
    pub(super) fn take_warnings(self) -> bool {
        false
    }

    #[inline]
    pub(super) fn failed(self, _failure: &Failure<'_>) -> bool {
        false
    }
}

/// Stands for the span of a request.
pub(super) struct RequestSpan;

impl RequestSpan {
    #[inline]
    pub(super) fn name_client(&self, _entry: &Entry) {}

    #[inline]
    pub(super) fn end(&self, _entry: &Entry, _reason: CloseReason) {}

    #[inline]
    pub(super) fn leave(self) {}
}
