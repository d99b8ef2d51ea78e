//! A server of the mixin `Green` whose handlers do what each line of their clients says, built with `panic = "abort"`.
//!
//! It prints its port, and obeys its stdin: "over" ends the handlers that spin, "stop" stops the server and prints the
//! report, and the end of the input ends the process.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socketserver::outgoing::connect;
use socketserver::park::Cancelled;
use socketserver::{Green, HandlerResult, Limits, StreamRequest, TcpServer, sleep, stream_fn};

const HOUR: Duration = Duration::from_secs(3_600);

/// Ends the handlers that spin.
static OVER: AtomicBool = AtomicBool::new(false);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if cfg!(panic = "unwind") {
        return Err("this program is about `panic = \"abort\"`: see its tests".into());
    }
    let server = TcpServer::builder()
        .mixin(Green::new().workers(2).watchdog(Duration::from_millis(50)))
        .limits(Limits::default().drain(Duration::from_millis(200)))
        .observer(|_| {})
        .bind("127.0.0.1:0", stream_fn(handle))?
        .serve_in_background()?;
    println!("{}", server.server_address().as_inet().ok_or("no TCP")?.port());
    let mut server = Some(server);
    for line in io::stdin().lines() {
        match line?.as_str() {
            "over" => OVER.store(true, Ordering::SeqCst),
            "stop" => {
                let server = server.take().ok_or("it is stopped")?;
                let report = server.stop()?;
                println!("forced: {}", report.forced.len());
                // Running handlers are named by their clients' ports.
                let left =
                    report.left_running.iter().map(|live| match live.client_address.as_inet() {
                        Some(client) => format!(" {}", client.port()),
                        None => " ?".to_owned(),
                    });
                println!("left:{}", left.collect::<String>());
            }
            other => return Err(format!("no order: {other}").into()),
        }
    }
    Ok(())
}

/// Says on stdout that it is dropped.
struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        println!("dropped: {}", self.0);
    }
}

fn handle(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let text = text.to_owned();
        writeln!(request, "{text}")?;
        match text.as_str() {
            "panic" => panic!("as asked"),
            "sleep" => {
                let _says = Says("sleep");
                sleep(HOUR);
                return Ok(());
            }
            "wait" => {
                let silent = TcpListener::bind("127.0.0.1:0")?;
                let mut other = connect(silent.local_addr()?, HOUR)?;
                let error = other.read(&mut [0]).expect_err("nothing comes");
                let _says = Says(if Cancelled::find(&error).is_some() { "wait" } else { "?" });
                // The handler cleans up in several steps: each fails at once, and the handler goes on.
                for _ in 0..3 {
                    let _ = request.read(&mut [0]);
                    sleep(HOUR);
                }
                return Ok(());
            }
            "swallow" => {
                let _says = Says("swallow");
                loop {
                    sleep(HOUR);
                }
            }
            "spin" => {
                while !OVER.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
                writeln!(request, "over")?;
            }
            _ => {}
        }
    }
    Ok(())
}
