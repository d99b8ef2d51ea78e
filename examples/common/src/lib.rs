//! The shared parts of the programs: the command line, the choice of transport and mixin, the log, and the client's side of a
//! connection.
//!
//! A program implements [`Program`], which says how its handlers are made, and calls [`serve()`] with the
//! [`ServeOptions`] of its command line. `main` is [`exit`] around that:
//!
//! ```no_run
//! use std::io::Write;
//!
//! use clap::Parser;
//! use common::{NoDatagrams, Program, ServeOptions};
//! use socketserver::handler::MakeHandler;
//! use socketserver::{DatagramRequest, StreamRequest, stream_fn};
//!
//! #[derive(Parser)]
//! #[command(mut_arg("bind", common::streams::<Greeter>))]
//! struct Cli {
//!     #[command(flatten)]
//!     options: ServeOptions,
//! }
//!
//! struct Greeter;
//!
//! impl Program for Greeter {
//!     const DEFAULT_BIND: &'static str = "127.0.0.1:8000";
//!
//!     fn exposure(&self) -> String {
//!         "anyone there may be greeted".to_owned()
//!     }
//!
//!     fn stream(&self) -> impl MakeHandler<StreamRequest> {
//!         stream_fn(|request| Ok(writeln!(request, "hello")?))
//!     }
//!
//!     fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>> {
//!         None::<NoDatagrams>
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     common::exit(common::serve(&Greeter, &Cli::parse().options))
//! }
//! ```

pub mod client;
mod control;
mod endpoint;
mod environment;
mod failure;
mod green;
mod log;
mod options;
mod place;
mod serve;
mod serve_tls;
pub mod status;
mod values;

pub use control::{ControlOptions, HELP, control};
pub use endpoint::{BadEndpoint, Endpoint};
pub use environment::variable;
pub use failure::{Failure, exit};
pub use log::{Level, level, say, set_level, warn};
pub use options::{FirstWord, MixinName, ServeOptions, datagrams_too, streams};
pub use place::{Place, Places};
pub use serve::{KEEPALIVE, NoDatagrams, Program, serve, serve_at};
pub use serve_tls::ServeTls;
pub use values::{bytes, count, milliseconds, rate, seconds};
