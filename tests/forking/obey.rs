//! A handler that does what its client says.

use std::io::{Read, Write};
use std::time::Duration;

use socketserver::{
    DatagramRequest, DatagramRequestHandler, Fatal, HandlerResult, StreamRequest,
    StreamRequestHandler,
};

use crate::{ends, system, wrapped};

/// Obeys the first word of each line or datagram.
pub struct Obey {
    pub name: String,
}

impl StreamRequestHandler for Obey {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            match word {
                "echo" => writeln!(request, "{rest}")?,
                // The line of CPython's tests, and the answer that they expect.
                "hello" => writeln!(request, "{text}")?,
                "who" => {
                    let proxy = request.proxy().and_then(|proxy| proxy.proxy_address().ip());
                    writeln!(request, "{} by {proxy:?}", request.client_address())?;
                }
                "pid" => writeln!(request, "{}", std::process::id())?,
                "exit" => std::process::exit(rest.parse()?),
                "fail" => return Err("told to fail".into()),
                "panic" => panic!("told to panic"),
                "fatal" => return Err(Fatal::new(format!("the end: {rest}")).into()),
                "bad-drop" => return Err(BadDrop.into()),
                "bad-cause" => return Err(BadCause.into()),
                "fatal-late" => {
                    writeln!(request, "here")?;
                    while !request.is_stopping() {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    return Err(Fatal::new("said in the drain").into());
                }
                "stop" => request.server().shutdown_handle().shutdown(),
                "serve" => {
                    let error = SERVE.get().expect("it is set before it serves")(rest);
                    writeln!(request, "{}", error.unwrap_or_else(|| "served".to_owned()))?;
                }
                "close" => CLOSE.get().expect("it is set before it serves")(),
                "close-in-thread" => {
                    std::thread::spawn(|| CLOSE.get().expect("it is set before it serves")())
                        .join()
                        .expect("it closes");
                }
                "stop-in-thread" => {
                    let handle = request.server().shutdown_handle();
                    std::thread::spawn(move || {
                        handle.shutdown();
                        handle.wait();
                    })
                    .join()
                    .expect("it waits for nobody");
                }
                "close-me" => {
                    request.server().shutdown_handle().shutdown();
                    let id = request.id();
                    assert!(request.server().close_live(id));
                    writeln!(request, "it is closed")?;
                }
                "compute" => {
                    let token = request.stop_token()?;
                    writeln!(request, "computing")?;
                    // Another thread waits for the stop, and this one only polls.
                    let helper = token.clone();
                    let told =
                        std::thread::spawn(move || helper.wait(Some(Duration::from_secs(60))));
                    while !token.is_stopping() {
                        std::thread::yield_now();
                    }
                    writeln!(request, "told: {}", told.join().is_ok_and(|told| told))?;
                    return Ok(());
                }
                "abort" => std::process::abort(),
                "print" => print!("{rest} "),
                "upload" | "hurry" => {
                    let timeout = (word == "hurry").then_some(Duration::from_millis(100));
                    request.set_timeout(timeout);
                    // Half a request: the drain has to wait for the other half.
                    let mut bytes = vec![0; rest.parse()?];
                    writeln!(request, "ready")?;
                    request.read_exact(&mut bytes)?;
                    writeln!(request, "got {}", bytes.len())?;
                }
                "long" => {
                    say!("taken");
                    writeln!(request, "{}", ends::answer(rest))?;
                }
                "counts" => {
                    let counts = request.server().counts();
                    writeln!(request, "{} accepted, {} ended", counts.accepted, counts.ended())?;
                }
                "outbox" => {
                    let outbox = request.outbox()?;
                    for number in 0..1_000 {
                        outbox.send(format!("{number}\n"))?;
                    }
                    if rest == "and leave" {
                        return Ok(());
                    }
                }
                "refuse" => {
                    // Everything that the client sends after that is ignored.
                    writeln!(request, "no, thank you")?;
                    return Ok(());
                }
                // A program that leaves a second one behind, which ends after the request.
                "orphan" => {
                    let mut shell = std::process::Command::new("sh");
                    shell.args(["-c", "(sleep 0.1; exec sleep 0.1) >/dev/null 2>&1 &"]).status()?;
                    writeln!(request, "left")?;
                }
                // The signals that are blocked in a program that this one starts: a bit for each.
                "blocked" => {
                    let status =
                        std::process::Command::new("cat").arg("/proc/self/status").output()?;
                    let text = String::from_utf8(status.stdout)?;
                    let mask = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
                    writeln!(request, "{}", mask.unwrap_or_default().trim())?;
                }
                "wrap" => wrapped::wrap(request)?,
                "standard" => writeln!(request, "{}", standard_descriptors())?,
                "fds" => writeln!(request, "{}", system::listeners())?,
                "stubborn" => {
                    writeln!(request, "here")?;
                    loop {
                        std::thread::sleep(Duration::from_secs(60));
                    }
                }
                "change" => {
                    self.name = rest.to_owned();
                    COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    writeln!(request, "{}", COUNT.load(std::sync::atomic::Ordering::SeqCst))?;
                }
                _ => writeln!(request, "what?")?,
            }
        }
        Ok(())
    }
}

/// An error that panics when it is dropped.
#[derive(Debug)]
struct BadDrop;

impl std::fmt::Display for BadDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bad drop")
    }
}

impl std::error::Error for BadDrop {}

impl Drop for BadDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// An error that panics when it is asked for its cause.
#[derive(Debug)]
struct BadCause;

impl std::fmt::Display for BadCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bad cause")
    }
}

impl std::error::Error for BadCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        panic!("asked for the cause")
    }
}

/// A function that serves by the server of the parent, in a child, and returns the error.
pub static SERVE: std::sync::OnceLock<Box<dyn Fn(&str) -> Option<String> + Send + Sync>> =
    std::sync::OnceLock::new();

/// A function that closes the server, in the parent or in a child.
pub static CLOSE: std::sync::OnceLock<Box<dyn Fn() + Send + Sync>> = std::sync::OnceLock::new();

static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// The files behind standard input, output and error.
pub fn standard_descriptors() -> String {
    let found = (0..3).map(|number| match std::fs::read_link(format!("/proc/self/fd/{number}")) {
        Ok(file) => file.display().to_string(),
        Err(error) => error.to_string(),
    });
    found.collect::<Vec<_>>().join(" ")
}

impl DatagramRequestHandler for Obey {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let mut text = String::new();
        request.read_to_string(&mut text)?;
        match text.as_str() {
            "pid" => write!(request, "{}", std::process::id())?,
            "stubborn" => {
                request.reply(b"here")?;
                std::thread::sleep(Duration::from_secs(60));
            }
            _ => request.write_all(text.as_bytes())?,
        }
        Ok(())
    }
}
