//! nginx, where it is installed, with one worker: a fixed answer to HTTP requests and to TLS clients, or an echo through TLS.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use super::{GREETING, Mode, announce, epoll, unsupported};
use crate::tls::{CERTIFICATE, KEY};

/// How long nginx may take to listen.
const START: Duration = Duration::from_secs(5);

/// Whether nginx is installed.
pub fn is_there() -> bool {
    Command::new("nginx").arg("-v").output().is_ok()
}

/// The module for streams, where Debian and others put it; elsewhere it is built in.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub fn serve(mode: Mode) -> io::Result<()> {
    // nginx does not say which port it has been given, so it is given one that was free.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let service = match mode {
        Mode::Web => web(address),
        Mode::TlsEcho => {
            let backend = TcpListener::bind("127.0.0.1:0")?;
            let to = backend.local_addr()?;
            thread::spawn(move || epoll::serve_at(&backend, Mode::Echo));
            stream(address, &format!("proxy_pass {to}; proxy_timeout 10m;"))
        }
        Mode::TlsLine => {
            let line = String::from_utf8_lossy(GREETING);
            // nginx turns these two characters into a newline.
            stream(address, &format!("return \"{}\\n\";", line.trim_end()))
        }
        _ => return unsupported(),
    };
    let folder = std::env::temp_dir().join(format!("bench-nginx-{}", process::id()));
    fs::create_dir_all(&folder)?;
    let config = format!(
        "{service}worker_processes 1;\ndaemon off;\npid nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n"
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
    // nginx has read everything by now, and is killed in the end, so that it removes no file itself.
    fs::remove_dir_all(&folder)?;
    announce(address)?;
    nginx.wait().map(drop)
}

fn web(address: SocketAddr) -> String {
    format!(
        "http {{\n access_log off;\n keepalive_requests 1000000000;\n\
         client_body_temp_path .;\n proxy_temp_path .;\n fastcgi_temp_path .;\n\
         uwsgi_temp_path .;\n scgi_temp_path .;\n\
         server {{ listen {address}; default_type text/plain;\n\
         location / {{ return 200 \"Hello, World\"; }} }}\n}}\n"
    )
}

/// A server of streams with TLS. It keeps sessions in tickets, as the other peers do.
fn stream(address: SocketAddr, job: &str) -> String {
    let load = match Path::new(STREAM_MODULE).is_file() {
        true => format!("load_module {STREAM_MODULE};\n"),
        false => String::new(),
    };
    format!(
        "{load}stream {{\n server {{ listen {address} ssl; tcp_nodelay on;\n\
         ssl_certificate {CERTIFICATE}; ssl_certificate_key {KEY};\n\
         ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;\n {job} }}\n}}\n"
    )
}
