//! Silent connections: their cost in memory and threads.

use std::io;
use std::thread;
use std::time::Duration;

use super::connect::connect_all;
use crate::figures::{Figure, Figures};
use crate::process::Process;
use crate::usage;

/// How long the load waits for memory that is given back late, on either side.
const SETTLE: Duration = Duration::from_millis(500);

pub fn measure(process: &Process, count: usize) -> io::Result<Figures> {
    let group = process.group();
    // Much of what a server allocates at its first connection it allocates only once.
    drop(connect_all(process.address(), 1)?);
    thread::sleep(SETTLE);
    let (pss, kernel) = (usage::pss(group), usage::kernel());
    let connections = connect_all(process.address(), count)?;
    thread::sleep(SETTLE);
    let each = |before: u64, after: u64| (after as f64 - before as f64) / connections.len() as f64;
    Ok([
        (Figure::Pss, each(pss, usage::pss(group))),
        (Figure::Kernel, each(kernel, usage::kernel())),
        (Figure::Threads, usage::threads(group) as f64),
    ]
    .into())
}
