//! nginx, where it is installed: one worker, and the same answer to everything.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use super::{Mode, announce, unsupported};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(5);

/// Whether it is installed.
pub fn is_there() -> bool {
    Command::new("nginx").arg("-v").output().is_ok()
}

pub fn serve(mode: Mode) -> io::Result<()> {
    if mode != Mode::Web {
        return unsupported();
    }
    // It does not say which port it has been given, so it is given one that was free.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let folder = std::env::temp_dir().join(format!("bench-nginx-{}", process::id()));
    fs::create_dir_all(&folder)?;
    let config = format!(
        "worker_processes 1;\ndaemon off;\npid nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n access_log off;\n keepalive_requests 1000000000;\n\
         client_body_temp_path .;\n proxy_temp_path .;\n fastcgi_temp_path .;\n\
         uwsgi_temp_path .;\n scgi_temp_path .;\n\
         server {{ listen {address}; default_type text/plain;\n\
         location / {{ return 200 \"Hello, World\"; }} }}\n}}\n"
    );
    fs::write(folder.join("nginx.conf"), config)?;
    let mut nginx = Command::new("nginx")
        .arg("-p")
        .arg(&folder)
        .args(["-c", "nginx.conf", "-e", "stderr"])
        .spawn()?;
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        if began.elapsed() > START || nginx.try_wait()?.is_some() {
            return Err(io::Error::other("nginx does not start"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    // It has read everything by now, and is killed in the end, so that it removes no file itself.
    fs::remove_dir_all(&folder)?;
    announce(address)?;
    nginx.wait().map(drop)
}
