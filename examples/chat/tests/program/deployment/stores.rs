//! [`Server`]: a Redis with options of a test's own, which ends with the test.

use std::process::{Command, Stdio};

use super::super::redis::free_address;
use test_support::folder;
use test_support::process::Process;

pub struct Server {
    process: Process,
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    pub fn start(options: &[&str]) -> Self {
        Self::start_on("--port", options)
    }

    /// Starts a server with this option for its port.
    pub fn start_on(port_option: &str, options: &[&str]) -> Self {
        let mut server = Self::prepare();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", port_option, &server.port.to_string()]);
        command.args(options).arg("--dir").arg(server.folder.path());
        server.run(&mut command, "Ready to accept connections");
        server
    }

    /// A Sentinel that watches the master `room` at this port.
    pub fn sentinel(master: u16, password: &str) -> Self {
        let mut server = Self::prepare();
        let file = server.folder.path().join("sentinel.conf");
        let text = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nrequirepass sent1nel\n\
             sentinel monitor room 127.0.0.1 {master} 1\nsentinel auth-pass room {password}\n\
             sentinel down-after-milliseconds room 500\nsentinel failover-timeout room 3000\n",
            server.port,
            server.folder.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        server.run(command.arg(&file).arg("--sentinel"), "+monitor master room");
        server
    }

    fn prepare() -> Self {
        let process = Process::start(Command::new("true").stdout(Stdio::null()));
        Self { process, port: free_address().port(), folder: folder() }
    }

    fn run(&mut self, command: &mut Command, ready: &str) {
        self.process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        self.says(ready);
    }

    /// Waits until the server has printed these words.
    pub fn says(&self, words: &str) {
        while !self.process.line().contains(words) {}
    }

    pub fn send_signal(&self, signal: i32) {
        self.process.send_signal(signal);
    }

    /// The server's answer to a command, over a connection of its own.
    pub fn ask(&self, command: &str, words: &[&str]) -> redis::Value {
        self.ask_as("", command, words)
    }

    /// The server's answer to a command of the user in `USER:PASSWORD@`.
    pub fn ask_as(&self, user: &str, command: &str, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(format!("redis://{user}127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_connection_with_timeout(test_support::SOON).unwrap();
        redis::cmd(command).arg(words).query(&mut connection).unwrap()
    }
}
