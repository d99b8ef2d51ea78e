//! The behaviours that the crate must show, a test for each row of `README.md` beside this file. A test
//! of row N is named `row_NNN_` and what it pins.

mod closing;
mod construction;
mod datagrams;
mod handle_request;
mod matrix;
mod requests;
mod serving;
mod streams;
mod workers;
