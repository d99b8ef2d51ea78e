//! A file sent by our upload program's own client, and stored by a server in a file system in memory.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Instant;

use super::session::{rates, unexpected};
use crate::figures::Figures;
use crate::process::Process;
use crate::{interrupt, sys, usage};

const MIB: usize = 1 << 20;

/// The folder in which the servers of this run store.
pub fn folder() -> PathBuf {
    own_folder().join("model")
}

fn own_folder() -> PathBuf {
    PathBuf::from(format!("/dev/shm/socketserver-bench-{}", process::id()))
}

/// The folder with the files of a measurement, which is removed after it.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        // A failure cannot be reported here, and nothing else can be tried.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Sends this many GiB. One operation is a MiB.
pub fn measure(server: &Process, size: usize, client: &Path) -> io::Result<Figures> {
    let files = Files(own_folder());
    fs::create_dir_all(&files.0)?;
    let needed = (2 * size + 1) as u64 * 1024 * MIB as u64;
    if sys::free_bytes(&files.0)? < needed {
        return Err(unexpected("there is too little room in /dev/shm"));
    }
    let (warm_up, file) = (files.0.join("warm-up"), files.0.join("file"));
    make(&warm_up, 64)?;
    make(&file, size * 1024)?;
    send(server, client, &warm_up)?;
    let (cpu, begin) = (usage::cpu(server.group()), Instant::now());
    send(server, client, &file)?;
    let (time, cpu) = (begin.elapsed(), usage::cpu(server.group()).saturating_sub(cpu));
    let stored = fs::metadata(folder().join("file"))?.len();
    if stored != fs::metadata(&file)?.len() {
        return Err(unexpected("another size was stored than was sent"));
    }
    Ok(rates((size * 1024) as u64, time, cpu))
}

/// Makes a file of this many MiB, no two pages of which are alike.
fn make(path: &Path, size: usize) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    let mut block = vec![b'u'; MIB];
    for number in 0..size {
        for (page, bytes) in block.chunks_mut(4096).enumerate() {
            bytes[..8].copy_from_slice(&((number << 8) + page).to_ne_bytes());
        }
        file.write_all(&block)?;
        interrupt::check()?;
    }
    Ok(())
}

fn send(server: &Process, client: &Path, file: &Path) -> io::Result<()> {
    let mut command = Command::new(client);
    command.args(["connect", &server.address().to_string()]).arg(file);
    let output = command.stdin(Stdio::null()).output()?;
    interrupt::check()?;
    if output.status.success() {
        return Ok(());
    }
    Err(unexpected(String::from_utf8_lossy(&output.stderr).trim()))
}
