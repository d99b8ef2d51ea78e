//! Foreign clients, first of all CPython's own tests: a client of Python's `socketserver` works with this one.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use socketserver::handler::MakeHandler;
use socketserver::mixin::Mixin;
use socketserver::monitor::DrainReport;
use socketserver::transport::{Bind, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Builder, HandlerResult, Inline, Pool, Server, StreamRequest, Threading, stream_fn,
};

use crate::handlers::OneLine;
use crate::support::process::{Ended, Process};
use crate::support::{folder, has_ipv6, skip_if};

/// Three clients of CPython's test class at each address: its `examine` methods connect, send and
/// check. They belong to an instance, which is made without the servers that its tests would start.
const CLIENTS: &str = r#"
import socket, sys
from test.test_socketserver import SocketServerTest

count = 0
for line in sys.stdin.read().splitlines():
    family, examine, address = line.split(" ", 2)
    if family == "AF_UNIX":
        address = "\0" + address[1:] if address.startswith("@") else address
    else:
        host, port = address.rsplit(":", 1)
        address = (host.strip("[]"), int(port))
    for _ in range(3):
        case = SocketServerTest("stream_examine")
        case.setUp()
        try:
            getattr(case, examine)(getattr(socket, family), address)
        finally:
            case.tearDown()
        count += 1
print("clients:", count)
"#;

/// Why CPython's tests cannot be used here, if they cannot.
fn missing_python() -> Option<&'static str> {
    static FOUND: OnceLock<Option<&str>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        if missing_tool("python3").is_some() {
            return Some("there is no python3");
        }
        let script = "import test.test_socketserver";
        let ended = client("python3", &["-c", script], "");
        // Some distributions have the tests in a package of their own.
        (!ended.status.success()).then_some("python3 comes without its own tests")
    })
}

fn missing_tool(name: &str) -> Option<String> {
    let mut command = Command::new(name);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().err().map(|error| format!("{name}: {error}"))
}

/// Runs a client, which reads `input` and then the end of input.
fn client(program: &str, args: &[&str], input: &str) -> Ended {
    let mut command = Command::new(program);
    let mut process =
        Process::start(command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()));
    process.type_in(input);
    process.end()
}

/// Servers that run, one under each mixin.
struct Servers {
    addresses: Vec<String>,
    stop: Vec<Box<dyn FnOnce() -> DrainReport>>,
}

/// Serves at `address` under each mixin; a `#` in it is replaced by a number.
fn serve<T: Bind>(address: &str, handler: &(impl MakeHandler<T::Request> + Clone)) -> Servers {
    let mixins: [Box<dyn Mixin>; 3] =
        [Box::new(Inline), Box::new(Threading::new()), Box::new(Pool::new(2))];
    let mut servers = Servers { addresses: Vec::new(), stop: Vec::new() };
    for (number, mixin) in mixins.into_iter().enumerate() {
        let address = address.replace('#', &number.to_string());
        let server: Server<T, _> = Builder::new(mixin).bind(address, handler.clone()).unwrap();
        servers.addresses.push(server.server_address().to_string());
        let server = server.serve_in_background().unwrap();
        servers.stop.push(Box::new(|| server.stop().unwrap()));
    }
    servers
}

impl Servers {
    fn stop(self) {
        for stop in self.stop {
            let report = stop();
            assert!(report.is_clean(), "{report}");
        }
    }

    /// Runs CPython's clients against all servers.
    fn examine(self, family: &str, examine: &str) {
        let lines = self.addresses.iter().map(|address| format!("{family} {examine} {address}\n"));
        let ended = client("python3", &["-c", CLIENTS], &lines.collect::<String>());
        let expected = format!("clients: {}\n", 3 * self.addresses.len());
        assert!(ended.status.success() && ended.out == expected, "{}{}", ended.out, ended.err);
        self.stop();
    }
}

#[test]
fn clients_of_cpython_are_served_over_tcp() {
    if skip_if(missing_python()) {
        return;
    }
    serve::<Tcp>("127.0.0.1:0", &|| OneLine).examine("AF_INET", "stream_examine");
    if has_ipv6() {
        serve::<Tcp>("[::1]:0", &|| OneLine).examine("AF_INET6", "stream_examine");
    }
}

#[test]
fn clients_of_cpython_are_served_over_udp() {
    if skip_if(missing_python()) {
        return;
    }
    serve::<Udp>("127.0.0.1:0", &|| OneLine).examine("AF_INET", "dgram_examine");
}

#[test]
fn clients_of_cpython_are_served_over_unix_streams() {
    if skip_if(missing_python()) {
        return;
    }
    let folder = folder();
    let path = format!("{}/#", folder.path().display());
    serve::<UnixStream>(&path, &|| OneLine).examine("AF_UNIX", "stream_examine");
    let name = format!("@{}#", folder.path().file_name().unwrap().to_str().unwrap());
    serve::<UnixStream>(&name, &|| OneLine).examine("AF_UNIX", "stream_examine");
}

#[test]
fn clients_of_cpython_are_served_over_unix_datagrams() {
    if skip_if(missing_python()) {
        return;
    }
    let folder = folder();
    let path = format!("{}/#", folder.path().display());
    serve::<UnixDatagram>(&path, &|| OneLine).examine("AF_UNIX", "dgram_examine");
}

/// Prints each public class of the module, and the public names in it.
const NAMES: &str = r#"
import socketserver
for name in socketserver.__all__:
    print(name)
    print(*(own for own in vars(getattr(socketserver, name)) if not own.startswith("_")))
"#;

#[test]
fn every_name_of_the_module_is_in_the_page_for_those_who_port() {
    if skip_if(missing_tool("python3")) {
        return;
    }
    let names = client("python3", &["-c", NAMES], "");
    assert!(names.status.success(), "{names:?}");
    let page = include_str!("../../docs/porting.md");
    let words: BTreeSet<&str> = page.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let missing: Vec<&str> =
        names.out.split_whitespace().filter(|name| !words.contains(name)).collect();
    assert!(names.out.split_whitespace().count() > 50, "{}", names.out);
    assert!(missing.is_empty(), "not in docs/porting.md: {missing:?}");
}

#[test]
fn netcat_is_served_over_tcp_and_unix_streams() {
    // netcat does not know `--version`, and its complaint shows that it is there.
    if skip_if(missing_tool("nc")) {
        return;
    }
    let folder = folder();
    let tcp = serve::<Tcp>("127.0.0.1:0", &|| OneLine);
    let unix = serve::<UnixStream>(&format!("{}/#", folder.path().display()), &|| OneLine);
    for address in &tcp.addresses {
        let (host, port) = address.rsplit_once(':').unwrap();
        let ended = client("nc", &[host, port], "hello\n");
        assert!(ended.status.success() && ended.out == "hello\n", "{ended:?}");
    }
    for path in &unix.addresses {
        let ended = client("nc", &["-U", path], "hello\n");
        assert!(ended.status.success() && ended.out == "hello\n", "{ended:?}");
    }
    tcp.stop();
    unix.stop();
}

#[test]
fn curl_is_served_over_tcp_and_unix_streams() {
    fn page(request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        while request.next_line(&mut line)?.is_some_and(|line| !line.is_empty()) {}
        write!(
            request,
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"
        )?;
        Ok(())
    }
    if skip_if(missing_tool("curl")) {
        return;
    }
    let folder = folder();
    let tcp = serve::<Tcp>("127.0.0.1:0", &stream_fn(page));
    let unix = serve::<UnixStream>(&format!("{}/#", folder.path().display()), &stream_fn(page));
    let quiet = ["--silent", "--show-error", "--noproxy", "*"];
    for address in &tcp.addresses {
        let url = format!("http://{address}/");
        let ended = client("curl", &[&quiet[..], &[&url]].concat(), "");
        assert!(ended.status.success() && ended.out == "hello\n", "{ended:?}");
    }
    for path in &unix.addresses {
        let args = ["--unix-socket", path, "http://localhost/"];
        let ended = client("curl", &[&quiet[..], &args].concat(), "");
        assert!(ended.status.success() && ended.out == "hello\n", "{ended:?}");
    }
    tcp.stop();
    unix.stop();
}
