//! An echo server, and beside it a server whose page shows the echo server's figures to Prometheus.
//!
//! Try it: `cargo run -p metrics-page`, then `nc 127.0.0.1 9999` and `curl http://127.0.0.1:9998/metrics`. Two other
//! addresses may follow `--`.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use socketserver::monitor::update_metrics;
use socketserver::{HandlerResult, StreamRequest, ThreadingTcpServer, run_all, stream_fn};

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

/// HTTP as far as a collector needs it: reads a request up to its empty line, and answers any request with the figures.
fn page(request: &mut StreamRequest, figures: &PrometheusHandle) -> HandlerResult {
    let mut line = String::new();
    while request.next_line(&mut line)?.is_some_and(|line| !line.is_empty()) {}
    update_metrics();
    figures.run_upkeep();
    let (head, text) = ("HTTP/1.1 200 OK\r\nContent-Type: text/plain", figures.render());
    let length = text.len();
    Ok(write!(request, "{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")?)
}

fn main() -> Result<(), Box<dyn Error>> {
    // The buckets are in seconds. Without them a histogram is shown as quantiles, which cannot be added up over several
    // servers.
    let buckets = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0];
    let figures = PrometheusBuilder::new().set_buckets(&buckets)?.install_recorder()?;
    let address = |at, default: &str| std::env::args().nth(at).unwrap_or(default.to_owned());
    let server = ThreadingTcpServer::builder().metrics("echo");
    let echo = server.bind(address(1, "127.0.0.1:9999"), stream_fn(echo))?;
    let page = stream_fn(move |request: &mut StreamRequest| page(request, &figures));
    let page = ThreadingTcpServer::bind(address(2, "127.0.0.1:9998"), page)?;
    println!("listening on {}", echo.server_address());
    println!("figures on http://{}/metrics", page.server_address());
    run_all(&[Box::new(echo), Box::new(page)], Duration::from_secs(10), || ())?;
    Ok(())
}
