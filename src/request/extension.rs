//! [`Extension`]: one value that a hook gives to the handler of the same request.

use std::any::Any;

/// One value of any type, or none. It is one pointer wide, because every request has this field and few use it.
#[derive(Debug, Default)]
pub(crate) struct Extension {
    /// Two boxes: a box of a trait object is two pointers wide, and a box of that box is one.
    value: Option<Box<Box<dyn Any + Send + Sync>>>,
}

impl Extension {
    /// Stores a value and drops the previous one, whatever its type.
    pub(crate) fn set<E: Any + Send + Sync>(&mut self, value: E) {
        self.value = Some(Box::new(Box::new(value)));
    }

    /// Whether there is no value.
    pub(super) fn is_none(&self) -> bool {
        self.value.is_none()
    }

    /// The value, if it has exactly this type.
    pub(super) fn get<E: Any>(&self) -> Option<&E> {
        // The call goes through both boxes, so it compares `E` with the value's own type, and not with that of the
        // inner box.
        self.value.as_deref()?.downcast_ref()
    }

    /// [`get`](Self::get), for a value that is to be changed.
    pub(super) fn get_mut<E: Any>(&mut self) -> Option<&mut E> {
        self.value.as_deref_mut()?.downcast_mut()
    }
}

/// The methods of a request that has a ticket.
macro_rules! ticket_methods {
    ($($ticket:ident).+) => {
        /// The server: its address, its limits, its live list, and the handle that stops it.
        #[must_use]
        pub fn server(&self) -> &$crate::server_context::ServerContext {
            self.$($ticket).+.server()
        }

        /// Whether a drain has begun: a long handler should end.
        #[must_use]
        pub fn is_stopping(&self) -> bool {
            self.server().is_stopping()
        }

        /// Whether this side has ended the request: at the deadline of a drain, or by
        /// [`close_live`](crate::ServerContext::close_live). For handlers that compute. Reads and writes of a
        /// connection fail by themselves.
        #[must_use]
        pub fn is_closed(&self) -> bool {
            self.ticket().entry().is_closed()
        }

        /// A [`StopToken`](crate::request::StopToken), which tells other threads that this request should end.
        ///
        /// # Errors
        ///
        /// If the process has no descriptors left for its two events.
        pub fn stop_token(&self) -> std::io::Result<crate::request::StopToken> {
            self.ticket().stop_token()
        }

        /// Ties a connection that the handler has made to this request: if the request is cut off, at the deadline of
        /// a drain or by [`close_live`](crate::ServerContext::close_live), that connection ends as well. Its calls
        /// then fail, and a handler that waits for another server notices the cut. The normal end of the request ends
        /// nothing: the connection may serve others after it.
        ///
        /// In a child of [`Forking`](crate::Forking) it is not needed: the child is killed.
        pub fn end_together(&self, with: &crate::outgoing::OutgoingStream) {
            let with: std::sync::Arc<dyn crate::live::LinkedConnection> = with.shared().clone();
            self.ticket().entry().link_connection(&with);
        }

        /// The value that a hook, or an earlier step of the handler, has set, if it is of this type: see
        /// [`Incoming::set_extension`](crate::hooks::Incoming::set_extension).
        #[must_use]
        pub fn extension<E: std::any::Any>(&self) -> Option<&E> {
            self.$($ticket).+.extension.get()
        }

        /// As [`extension`](Self::extension), for a value that the handler changes.
        #[must_use]
        pub fn extension_mut<E: std::any::Any>(&mut self) -> Option<&mut E> {
            self.$($ticket).+.extension.get_mut()
        }

        /// Sets the value, and drops an earlier one. A hook sets it for the handler, or `setup` for `handle`. A
        /// request has one value, of any type; without a value it costs nothing.
        pub fn set_extension<E: std::any::Any + Send + Sync>(&mut self, value: E) {
            self.$($ticket).+.extension.set(value);
        }

        /// The ticket, for other files of this module.
        pub(in crate::request) fn ticket(&self) -> &crate::request::Ticket {
            &self.$($ticket).+
        }
    };
}

pub(super) use ticket_methods;
