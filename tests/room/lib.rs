//! One room over several servers of `chat`, in a network that fails.
//!
//! ```text
//! members - chat m1 --+
//! members - chat m2 --+-- switch -- Redis 10.77.0.10, and one to take its place
//! members - chat m3 --+
//! ```
//!
//! Each machine is a network namespace with an address of its own (`network.rs`); the switch is a bridge in a further
//! namespace. A machine is cut off by taking its port off the bridge. A link with delay and loss is a pair of taps with a
//! thread in between (`link.rs`), because the kernels of many machines have no netem. A name server answers late, or not
//! at all (`names.rs`). Members (`members.rs`) say lines with numbers, and the lines that each of them hears are counted
//! (`heard.rs`, `tally.rs`):
//!
//! - **lost**: not heard by a member that was there. A lost line is **told** if its author got a notice that quotes it, and
//!   **untold** if not;
//! - **duplicates**, **disorder**: heard twice; heard after a later line of the same author;
//! - **old**: said well before the start of the server that shows it.
//!
//! The promise of `chat` is that no line is untold, heard twice, in disorder, or old.
//!
//! ```text
//! cargo test -p room                                                # the cases
//! cargo run --release -p room -- --seed 1 --minutes 60              # faults drawn from seeds
//! cargo run --release -p room -- --crowd 2000 --servers 4           # how much it carries
//! cargo run --release -p room -- --far yes                          # how late lines are over a distance
//! ```
//!
//! The harness needs root, `ip` (iproute2), `redis-server` and /dev/net/tun. The program is built first, unless `CHAT` names one.

pub mod chance;
pub mod crowd;
pub mod far;
pub mod heard;
pub mod link;
pub mod machine;
pub mod measure;
pub mod members;
pub mod names;
pub mod needs;
pub mod network;
pub mod redis;
pub mod rounds;
pub mod schedule;
pub mod server;
pub mod talk;
pub mod tally;
#[allow(unsafe_code)]
mod tap;
pub mod world;
