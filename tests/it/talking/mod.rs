//! Handlers that talk to others than their own peer: connections that they make, two things at once, the two directions
//! of a connection apart, and datagrams that are sent later.

mod connecting;
mod later_datagrams;
