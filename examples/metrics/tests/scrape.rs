//! The page, as Prometheus and `curl` read it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;

use test_support::process::Process;
use test_support::program::{Program, assert_ends, listening};
use test_support::{connect, eventually, exchange, read_to_end, skip};

/// The program, its echo server and its page.
fn start() -> (Process, SocketAddr, SocketAddr) {
    let program = Program(env!("CARGO_BIN_EXE_metrics-page"));
    let process = Process::start(&mut program.command(&["127.0.0.1:0", "127.0.0.1:0"]));
    let echo = listening(&process).parse().unwrap();
    let line = process.line();
    let page = line.strip_prefix("figures on http://").and_then(|it| it.strip_suffix("/metrics"));
    (process, echo, page.unwrap().parse().unwrap())
}

/// The body of the page.
fn scrape(page: SocketAddr) -> String {
    let mut client = connect(page);
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: text/plain\r\n\r\n").unwrap();
    let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    body.to_owned()
}

/// The value of each series.
fn series(body: &str) -> BTreeMap<&str, f64> {
    let lines = body.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(k, v)| (k, v.parse().unwrap())).collect()
}

#[test]
fn the_page_has_what_the_echo_server_did() {
    let (process, echo, page) = start();
    for _ in 0..3 {
        assert_eq!(exchange(&mut connect(echo), "hello"), "hello\n");
    }
    let mut stays = connect(echo);
    assert_eq!(exchange(&mut stays, "longer than hello"), "longer than hello\n");
    let labels = "server=\"echo\",transport=\"tcp\"";
    let ended =
        format!("socketserver_requests_total{{{labels},reason=\"completed\",fault=\"none\"}}");
    eventually("three have ended", || series(&scrape(page)).get(&*ended) == Some(&3.0));
    let body = scrape(page);
    let series = series(&body);
    let value = |name: &str| {
        let name = format!("{name}{{{labels}}}");
        *series.get(&*name).unwrap_or_else(|| panic!("{name}: {body}"))
    };
    assert_eq!(value("socketserver_accepted_total"), 4.0);
    assert_eq!([value("socketserver_live_requests"), value("socketserver_busy_workers")], [1.0; 2]);
    assert_eq!(value("socketserver_request_seconds_count"), 3.0);
    // The bytes of the live request count as well.
    assert_eq!(value("socketserver_received_bytes_total"), 3.0 * 6.0 + 18.0);
    let bucket = format!("socketserver_queue_seconds_bucket{{{labels},le=\"+Inf\"}}");
    assert_eq!(series.get(&*bucket), Some(&3.0), "{body}");
    assert!(body.contains("# TYPE socketserver_request_seconds histogram"), "{body}");
    assert!(body.contains("# HELP socketserver_requests_total "), "{body}");
    drop(stays);
    process.send_signal(15);
    assert_ends(&process.end(), 0);
}

#[test]
fn curl_reads_the_page() {
    let (_process, _echo, page) = start();
    let url = format!("http://{page}/metrics");
    let Ok(output) = Command::new("curl").args(["-sS", "--max-time", "20", &url]).output() else {
        return skip("there is no curl");
    };
    assert!(output.status.success(), "{output:?}");
    // The series of the echo server exist from its first event on, which says that it is ready.
    let body = String::from_utf8(output.stdout).unwrap();
    assert!(
        body.contains("socketserver_accepted_total{server=\"echo\",transport=\"tcp\"} 0"),
        "{body}"
    );
}
