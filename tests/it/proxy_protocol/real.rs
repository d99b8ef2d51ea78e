//! Real proxies in front: HAProxy with both versions, its TLVs and its health checks, and nginx.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use socketserver::monitor::CloseReason;
use socketserver::proxy_protocol::Ssl;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerResult, Limits, StreamRequest, Threading, ThreadingTcpServer,
    stream_fn,
};

use super::{Told, trusting};
use crate::handlers::Diary;
use crate::support::process::Process;
use crate::support::{connect, eventually, exchange, folder, inet, read_line, skip_if};

/// The address of the proxies and servers here. No other test listens there.
const HOST: &str = "127.0.0.78";

fn free_address() -> SocketAddr {
    TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap()
}

fn is_there(program: &str, option: &str) -> bool {
    Command::new(program).arg(option).stderr(Stdio::null()).stdout(Stdio::null()).status().is_ok()
}

/// The file of nginx's module `stream`, which Debian keeps apart from nginx itself.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn no_haproxy() -> Option<&'static str> {
    (!is_there("haproxy", "-v")).then_some("haproxy is not installed")
}

fn no_nginx() -> Option<&'static str> {
    let is_there = is_there("nginx", "-v") && Path::new(STREAM).exists();
    (!is_there).then_some("nginx is not installed, or has no module stream")
}

/// Answers each line with what the proxy has said; a client without a line is a health check, which is noted.
fn answer(request: &mut StreamRequest, checks: &Diary) -> HandlerResult {
    let (mut line, mut heard) = (String::new(), false);
    // HAProxy ends its checks by a reset.
    while let Ok(Some(_)) = request.next_line(&mut line) {
        heard = true;
        let client = request.client_address();
        let proxy = request.proxy().ok_or("no proxy")?;
        let header = proxy.header();
        let destination = proxy.destination().map(ToString::to_string).unwrap_or_default();
        let id = String::from_utf8_lossy(header.unique_id().unwrap_or_default()).into_owned();
        let authority = header.authority().unwrap_or_default();
        let ssl = header.ssl();
        let tls = ssl.as_ref().and_then(Ssl::version).unwrap_or_default();
        let answer = format!(
            "{client} to {destination} by {:?}, id {id:?}, checked {}, for {authority:?}, {tls:?}\n",
            header.version(),
            header.is_checked(),
        );
        request.write_all(answer.as_bytes())?;
    }
    if !heard {
        let header = request.proxy().ok_or("no proxy")?.header();
        checks.note(format!("{:?} {:?}", header.version(), header.is_local()));
    }
    Ok(())
}

struct Behind {
    server: BackgroundServer<Tcp, Threading>,
    told: Told,
    checks: Diary,
}

fn behind(limits: Limits) -> Behind {
    let (told, checks) = (Told::default(), Diary::default());
    let noted = checks.clone();
    let server = ThreadingTcpServer::builder()
        .limits(limits)
        .proxy_protocol(trusting())
        .observer(told.observer())
        .bind((HOST, 0), stream_fn(move |request: &mut StreamRequest| answer(request, &noted)))
        .unwrap();
    Behind { server: server.serve_in_background().unwrap(), told, checks }
}

/// A proxy, and the folder of its files.
struct Running {
    process: Process,
    _folder: tempfile::TempDir,
}

fn haproxy(config: impl FnOnce(&Path) -> String) -> Running {
    let folder = folder();
    let file = folder.path().join("haproxy.cfg");
    let begin = "global\n    maxconn 100\n    tune.ssl.default-dh-param 2048\n\
                 defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    \
                 timeout server 60s\n";
    fs::write(&file, format!("{begin}{}", config(folder.path()))).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
    Running { process: Process::start(&mut command), _folder: folder }
}

/// A certificate with its key, in one file.
fn certificate(folder: &Path) -> PathBuf {
    let (key, cert, both) = (folder.join("key"), folder.join("cert"), folder.join("both.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", "/CN=front.example", "-days", "2", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(&both, [fs::read(&cert).unwrap(), fs::read(&key).unwrap()].concat()).unwrap();
    both
}

#[test]
fn haproxy_names_its_clients_in_both_versions() {
    if skip_if(no_haproxy()) {
        return;
    }
    let behind = behind(Limits::default());
    let server = inet(&*behind.server);
    let [one, two, plain] = [free_address(), free_address(), free_address()];
    let running = haproxy(|_| {
        format!(
            "listen one\n    bind {one}\n    server app {server} send-proxy\n\
             listen two\n    bind {two}\n    unique-id-format id-%ci:%cp\n    server app {server} \
             send-proxy-v2 proxy-v2-options crc32c,unique-id\n\
             listen plain\n    bind {plain}\n    server app {server}\n"
        )
    });
    eventually("it listens", || std::net::TcpStream::connect(plain).is_ok());
    let mut client = connect(one);
    let address = client.local_addr().unwrap();
    let says = format!("{address} to {one} by V1, id \"\", checked false, for \"\", \"\"\n");
    assert_eq!(exchange(&mut client, "hello"), says);
    let mut client = connect(two);
    let address = client.local_addr().unwrap();
    let says =
        format!("{address} to {two} by V2, id \"id-{address}\", checked true, for \"\", \"\"\n");
    assert_eq!(exchange(&mut client, "hello"), says);
    assert_eq!(exchange(&mut client, "again"), says, "the header is no part of it");
    // A client that sends no header is closed at its first bytes.
    let before = behind.told.ended(CloseReason::BadProxyHeader);
    let mut silent = connect(plain);
    silent.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_line(&mut silent), "");
    eventually("it is told", || behind.told.ended(CloseReason::BadProxyHeader) > before);
    running.process.send_signal(libc::SIGTERM);
}

#[test]
fn haproxy_tells_of_the_tls_that_it_has_ended() {
    if skip_if(no_haproxy()) || skip_if((!is_there("openssl", "version")).then_some("no openssl")) {
        return;
    }
    let behind = behind(Limits::default());
    let (server, front) = (inet(&*behind.server), free_address());
    let running = haproxy(|folder| {
        let certificate = certificate(folder).display().to_string();
        format!(
            "listen front\n    bind {front} ssl crt {certificate} alpn h2,http/1.1\n    \
             server app {server} send-proxy-v2 proxy-v2-options ssl,authority,crc32c\n"
        )
    });
    eventually("it listens", || std::net::TcpStream::connect(front).is_ok());
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-servername", "front.example", "-tls1_3", "-connect"])
        .arg(front.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let line = read_line(client.stdout.as_mut().unwrap());
    let ends = "by V2, id \"\", checked true, for \"front.example\", \"TLSv1.3\"\n";
    let _ = client.kill();
    let _ = client.wait();
    assert!(line.ends_with(ends), "{line}");
    running.process.send_signal(libc::SIGTERM);
}

#[test]
fn health_checks_of_haproxy_are_its_own_and_cost_no_client_its_place() {
    if skip_if(no_haproxy()) {
        return;
    }
    let behind = behind(Limits::default().per_peer(1));
    let (server, front) = (inet(&*behind.server), free_address());
    let running = haproxy(|_| {
        let check = "check check-send-proxy inter 20ms";
        format!(
            "listen front\n    bind {front}\n    server app {server} send-proxy-v2 {check}\n\
             backend other\n    server app {server} send-proxy {check}\n"
        )
    });
    // Version 1 has no word for health checks: there HAProxy names itself as the client.
    for check in ["V2 true", "V1 false"] {
        eventually("health checks come", || behind.checks.count(check) > 3);
    }
    let mut client = connect(front);
    let address = client.local_addr().unwrap();
    assert!(exchange(&mut client, "hello").starts_with(&format!("{address} to {front} by V2")));
    let checked = behind.checks.lines().len();
    eventually("checks go on", || behind.checks.lines().len() > checked + 3);
    assert_eq!(behind.told.ended(CloseReason::Refused), 0);
    running.process.send_signal(libc::SIGTERM);
}

#[test]
fn nginx_names_its_clients() {
    if skip_if(no_nginx()) {
        return;
    }
    let behind = behind(Limits::default());
    let (server, front, folder) = (inet(&*behind.server), free_address(), folder());
    let file = folder.path().join("nginx.conf");
    let here = folder.path().display();
    let config = format!(
        "load_module {STREAM};\ndaemon off;\nmaster_process off;\npid {here}/pid;\n\
         error_log {here}/error.log;\nevents {{}}\nstream {{\n  server {{\n    listen {front};\n    \
         proxy_pass {server};\n    proxy_protocol on;\n  }}\n}}\n"
    );
    fs::write(&file, config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder.path()).arg("-c").arg(&file);
    command.args(["-e", "stderr"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let running = Process::start(&mut command);
    eventually("it listens", || std::net::TcpStream::connect(front).is_ok());
    let mut client = connect(front);
    let address = client.local_addr().unwrap();
    let says = format!("{address} to {front} by V1, id \"\", checked false, for \"\", \"\"\n");
    assert_eq!(exchange(&mut client, "hello"), says);
    running.send_signal(libc::SIGTERM);
}
