//! The vocabulary of handlers that tests speak.

#![allow(dead_code, reason = "each group of tests uses its part of this")]

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use socketserver::{
    DatagramRequest, DatagramRequestHandler, HandlerResult, StreamRequest, StreamRequestHandler,
};

use crate::support::hear;

/// Sends every line back; over datagrams, every datagram.
pub struct Echo;

impl StreamRequestHandler for Echo {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = Vec::new();
        while let Some(text) = request.next_line(&mut line)? {
            request.write_all(&[text, b"\n"].concat())?;
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Echo {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let packet = request.packet().to_vec();
        request.reply(&packet)?;
        Ok(())
    }
}

/// Sends one line back, as CPython's test servers do, and ends.
pub struct OneLine;

impl StreamRequestHandler for OneLine {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        if let Some(text) = request.next_line(&mut line)? {
            writeln!(request, "{text}")?;
        }
        Ok(())
    }
}

impl DatagramRequestHandler for OneLine {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let packet = request.packet().to_vec();
        request.write_all(&packet)?;
        Ok(())
    }
}

/// Fails at once.
pub struct Crash;

impl StreamRequestHandler for Crash {
    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        Err("crash".into())
    }
}

impl DatagramRequestHandler for Crash {
    fn handle(&mut self, _request: &mut DatagramRequest) -> HandlerResult {
        Err("crash".into())
    }
}

/// Panics at once.
pub struct Panic;

impl StreamRequestHandler for Panic {
    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        panic!("panic")
    }
}

/// Does nothing, and so ends at once.
pub struct Silent;

impl StreamRequestHandler for Silent {
    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        Ok(())
    }
}

impl DatagramRequestHandler for Silent {
    fn handle(&mut self, _request: &mut DatagramRequest) -> HandlerResult {
        Ok(())
    }
}

/// Announces that it runs, and waits until the test releases it.
#[derive(Clone)]
pub struct Held {
    started: Sender<std::thread::ThreadId>,
    release: Arc<Mutex<Receiver<()>>>,
    blocks: bool,
}

/// The test's side of [`Held`].
pub struct Holder {
    pub started: Receiver<std::thread::ThreadId>,
    /// One message releases one handler; dropping the sender releases all of them.
    pub release: Sender<()>,
}

/// A handler that waits until the test releases it, and the test's side of it.
pub fn held() -> (Held, Holder) {
    let (started, starts) = channel();
    let (release, releases) = channel();
    let held = Held { started, release: Arc::new(Mutex::new(releases)), blocks: false };
    (held, Holder { started: starts, release })
}

/// As [`held`], but the handler blocks its thread: under `Green` the other requests of that thread wait as well.
pub fn stuck() -> (Held, Holder) {
    let (held, holder) = held();
    (Held { blocks: true, ..held }, holder)
}

impl Held {
    fn hold(&self) {
        // The test may be over already.
        let _ = self.started.send(std::thread::current().id());
        let _ = if self.blocks { self.release.lock().unwrap().recv() } else { hear(&self.release) };
    }
}

impl StreamRequestHandler for Held {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.hold();
        writeln!(request, "released")?;
        Ok(())
    }
}

impl DatagramRequestHandler for Held {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        self.hold();
        request.reply(b"released")?;
        Ok(())
    }
}

/// A log of steps in their order, from any thread.
#[derive(Clone, Default)]
pub struct Diary {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Diary {
    pub fn note(&self, line: impl Into<String>) {
        self.lines.lock().unwrap().push(line.into());
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The lines as one text, separated by spaces.
    pub fn text(&self) -> String {
        self.lines().join(" ")
    }

    pub fn contains(&self, line: &str) -> bool {
        self.lines().iter().any(|have| have == line)
    }

    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|have| *have == line).count()
    }
}

/// Notes its steps in a diary, and fails in some of them.
pub struct Steps {
    pub diary: Diary,
    pub fail_in: &'static [&'static str],
}

impl Steps {
    fn step(&self, name: &str) -> HandlerResult {
        self.diary.note(name);
        if self.fail_in.contains(&name) { Err(format!("{name} fails").into()) } else { Ok(()) }
    }
}

impl StreamRequestHandler for Steps {
    fn setup(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        self.step("setup")
    }

    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        self.step("handle")
    }

    fn finish(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        self.step("finish")
    }
}

/// A handler of uploads: each line says how many bytes follow it.
pub fn announced(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let mut bytes = vec![0; text.parse()?];
        writeln!(request, "go on")?;
        request.read_exact(&mut bytes)?;
        writeln!(request, "thank you")?;
    }
    Ok(())
}
