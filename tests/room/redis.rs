//! A Redis on a machine of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::machine::Machine;
use crate::network::Network;

/// The data that is left when a Redis is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing.
    Nothing,
    /// The last snapshot, which is made by `SAVE`.
    Snapshots,
    /// A log of all writes.
    Log,
}

/// A Redis, which may be down.
#[derive(Debug)]
pub struct Redis {
    network: Arc<Network>,
    host: String,
    keeps: Keeps,
    options: Vec<String>,
    folder: PathBuf,
    machine: Option<Machine>,
}

/// The longest that a Redis may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// The longest that a Redis may take to start.
const START: Duration = Duration::from_secs(60);

impl Redis {
    /// A Redis that is not running yet.
    pub fn at_rest(network: &Arc<Network>, host: &str, keeps: Keeps, options: &[&str]) -> Self {
        let folder = network.folder().join(host);
        std::fs::create_dir_all(&folder).expect("a folder for a Redis");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (network, host) = (Arc::clone(network), host.to_owned());
        Self { network, host, keeps, options, folder, machine: None }
    }

    /// Starts it. It may load its data for a while: see [`ready`](Self::ready).
    pub fn start(&mut self) {
        let mut command = self.network.command(&self.host, "redis-server");
        command.args(["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no"]);
        command.args(["--enable-debug-command", "yes", "--dir"]).arg(&self.folder);
        let (log, saves) = match self.keeps {
            Keeps::Nothing => ("no", ""),
            Keeps::Snapshots => ("no", "3600 1"),
            Keeps::Log => ("yes", ""),
        };
        command.args(["--appendonly", log, "--save", saves]).args(&self.options);
        self.machine = Some(Machine::start(command, self.folder.join("log")));
    }

    /// Waits until it answers, with its data loaded.
    pub fn ready(&self) {
        let began = Instant::now();
        while self.try_ask(&["PING"]).ok().as_deref() != Some("PONG") {
            let said = || self.machine.as_ref().map(Machine::said);
            assert!(began.elapsed() < START, "Redis does not answer: {:?}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// If it is down.
    pub fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("the Redis was started")
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.machine().kill();
        self.machine = None;
    }

    /// Ends it in order: it saves what it keeps.
    pub fn stop(&mut self) {
        self.machine().terminate();
        self.machine().end_within(START);
        self.machine = None;
    }

    /// Whether it was started, and not ended.
    pub fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    /// Cuts this many bytes off the end of its log, as a power cut does with bytes that are not on the disk yet. The Redis
    /// has to be down.
    pub fn truncate(&self, bytes: u64) {
        assert!(self.machine.is_none(), "the log of a Redis that runs");
        let folder = self.folder.join("appendonlydir");
        let entries = std::fs::read_dir(&folder).expect("there is a log");
        let files = entries.map(|entry| entry.expect("a file").path());
        let last = files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max();
        let last: &Path = &last.expect("the log has a file that grows");
        let file = std::fs::File::options().write(true).open(last).expect("the log");
        let length = file.metadata().expect("its length").len();
        file.set_len(length.saturating_sub(bytes)).expect("it is cut");
    }

    /// Sends a request, and returns the answer as text.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Logs in with this password, sends a request, and returns the answer as text.
    #[track_caller]
    pub fn ask_with(&self, password: &str, words: &[&str]) -> String {
        let answer = self.try_ask_all(&[&["AUTH", password], words]);
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn try_ask(&self, words: &[&str]) -> Result<String, String> {
        self.try_ask_all(&[words])
    }

    /// Sends requests, one after the other. Returns the last answer, or the first error.
    fn try_ask_all(&self, requests: &[&[&str]]) -> Result<String, String> {
        let address = self.network.address(&self.host, 6379);
        let connected =
            self.network.inside(&self.host, || TcpStream::connect_timeout(&address, ANSWER));
        let mut stream = connected.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        for words in requests {
            answer = ask_at(&mut stream, words).map_err(|error| error.to_string())?;
            if let Some(error) = answer.strip_prefix('-') {
                return Err(error.to_owned());
            }
        }
        Ok(answer)
    }

    /// Makes this Redis a replica of the one on the machine `host`, and waits until it follows.
    pub fn follow(&self, host: &str) {
        let master = self.network.address(host, 6379);
        let (ip, port) = (master.ip().to_string(), master.port().to_string());
        self.ask(&["REPLICAOF", &ip, &port]);
        let began = Instant::now();
        while !self.ask(&["INFO", "replication"]).contains("master_link_status:up") {
            assert!(began.elapsed() < START, "the replica does not follow");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The answer to a request. An error begins with a `-`.
fn ask_at(stream: &mut TcpStream, words: &[&str]) -> std::io::Result<String> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes())?;
    let mut answers = BufReader::new(stream);
    let mut line = String::new();
    if answers.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("$", length)) => {
            let mut bytes = vec![0; length.parse().unwrap_or(0)];
            answers.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Some(("+" | ":", answer)) => Ok(answer.to_owned()),
        _ => Ok(line.to_owned()),
    }
}
