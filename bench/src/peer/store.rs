//! A std thread for each connection, which stores one file after the other as our upload program does:
//! received, digested, synced and renamed. It speaks as much of that program's protocol as the client needs, and
//! trusts the client: no names are checked, nothing is limited or resumed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use super::announce;

/// The variable in which the load says where to store.
pub const FOLDER: &str = "SOCKETSERVER_BENCH_FOLDER";

/// The size of the buffer, which is that of our own server.
const BLOCK: usize = 1024 * 1024;

pub fn serve() -> io::Result<()> {
    let folder = std::env::var_os(FOLDER).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("there is no folder to store in"))?;
    fs::create_dir_all(&folder)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?)?;
    for stream in listener.incoming() {
        let (stream, folder) = (stream?, folder.clone());
        thread::spawn(move || {
            if let Err(error) = store_all(stream, &folder) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

/// A header of a frame: its kind and its length. `None` at the end.
fn header(stream: &mut TcpStream) -> io::Result<Option<(u8, usize)>> {
    let mut header = [0; 5];
    match stream.read(&mut header)? {
        0 => return Ok(None),
        count => stream.read_exact(&mut header[count..])?,
    }
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    Ok(Some((header[0], length as usize)))
}

fn store_all(mut stream: TcpStream, folder: &std::path::Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BLOCK];
    let mut path = Vec::new();
    let mut file = None;
    let mut hasher = blake3::Hasher::new();
    let part = folder.join("file.part");
    while let Some((kind, length)) = header(&mut stream)? {
        let payload = buffer.get_mut(..length).ok_or_else(|| io::Error::other("a long frame"))?;
        stream.read_exact(payload)?;
        match kind {
            b'H' => stream.write_all(&[&b"H\0\0\0\x08"[..], payload].concat())?,
            b'P' => {
                // The length of a name, and the name, follow the flag, the size and the fingerprint.
                path = payload[41..].to_vec();
                file = Some(File::create(&part)?);
                hasher.reset();
            }
            b'D' => {
                hasher.update(payload);
                file.as_mut().ok_or_else(|| io::Error::other("no file"))?.write_all(payload)?;
            }
            b'E' if payload == hasher.finalize().as_bytes() => {
                file.take().ok_or_else(|| io::Error::other("no file"))?.sync_all()?;
                fs::rename(&part, folder.join(String::from_utf8_lossy(&path[2..]).as_ref()))?;
                File::open(folder)?.sync_all()?;
                let length = (path.len() as u32).to_be_bytes();
                stream.write_all(&[b"K", &length[..], &path].concat())?;
            }
            _ => return Err(io::Error::other("a frame that was not expected")),
        }
    }
    Ok(())
}
