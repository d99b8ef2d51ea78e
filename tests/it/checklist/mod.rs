//! The promised behaviours, with a test for each row of `README.md` beside this file. The name of a test of row N begins
//! with `row_NNN_` and says the behaviour.

mod closing;
mod construction;
mod datagrams;
mod handle_request;
mod matrix;
mod requests;
mod serving;
mod streams;
mod workers;

use std::path::Path;

use socketserver::{BaseServer, TcpServer, UdpServer, UnixDatagramServer, UnixStreamServer};

use crate::handlers::Silent;

/// A server of each transport. The files of the Unix sockets are in this folder.
fn one_of_each_transport(folder: &Path) -> [Box<dyn BaseServer>; 4] {
    [
        Box::new(TcpServer::bind("127.0.0.1:0", || Silent).unwrap()),
        Box::new(UdpServer::bind("127.0.0.1:0", || Silent).unwrap()),
        Box::new(UnixStreamServer::bind(folder.join("s"), || Silent).unwrap()),
        Box::new(UnixDatagramServer::bind(folder.join("d"), || Silent).unwrap()),
    ]
}
