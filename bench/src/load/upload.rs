//! Bytes through one connection, as fast as they go; the server counts them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use super::connect::connect;
use super::session::{rates, unexpected};
use crate::figures::Figures;
use crate::interrupt;
use crate::process::Process;
use crate::usage;

const MIB: usize = 1 << 20;
/// Bytes of one write.
const BLOCK: usize = MIB / 4;
/// A server that takes nothing for this long is stuck.
const STUCK: Duration = Duration::from_secs(5);
/// An upload ends after this long, also when it has not sent everything.
const LONGEST: Duration = Duration::from_secs(30);

/// Sends this many GiB. One operation is a MiB.
pub fn measure(process: &Process, size: usize) -> io::Result<Figures> {
    upload(process.address(), 64)?;
    let (cpu, begin) = (usage::cpu(process.group()), Instant::now());
    let sent = upload(process.address(), size * 1024)?;
    let (time, cpu) = (begin.elapsed(), usage::cpu(process.group()).saturating_sub(cpu));
    Ok(rates(sent, time, cpu))
}

/// Sends some MiB, checks the answer, and returns how many MiB were sent.
fn upload(address: SocketAddr, size: usize) -> io::Result<u64> {
    let mut stream = connect(address)?;
    stream.set_write_timeout(Some(STUCK))?;
    stream.set_read_timeout(Some(STUCK))?;
    let (block, begin) = (vec![b'u'; BLOCK], Instant::now());
    let mut sent = 0;
    while sent < size * MIB && begin.elapsed() < LONGEST {
        stream.write_all(&block)?;
        sent += BLOCK;
        interrupt::check()?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.trim() != sent.to_string() {
        return Err(unexpected(&format!("{sent} bytes were sent, and {answer:?} was answered")));
    }
    Ok((sent / MIB) as u64)
}
