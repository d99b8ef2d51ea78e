//! A server of the mixin `Green` in a program with `panic = "abort"`, where nothing unwinds: panics, drains, held workers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use test_support::process::Process;
use test_support::{SOON, connect, exchange, read_line, read_to_end, skip};

/// The program, built with `panic = "abort"` by the first test that asks. `None` if there is no Cargo here.
fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abort");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--offline", "--bin", "abort", "--target-dir"])
            .arg(&folder)
            .env("CARGO_PROFILE_DEV_PANIC", "abort")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .output();
        match output {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{said}");
                Some(folder.join("debug/abort"))
            }
            Err(_) => None,
        }
    });
    if built.is_none() {
        skip("there is no cargo to build a program with");
    }
    built.as_deref()
}

/// The program, and where it listens.
struct Server {
    process: Process,
    port: u16,
}

impl Server {
    fn start() -> Option<Self> {
        let process =
            Process::start(Command::new(program()?).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let port = process.line().parse().expect("a port");
        Some(Self { process, port })
    }

    fn client(&self) -> TcpStream {
        connect(([127, 0, 0, 1], self.port).into())
    }

    /// A client whose handler does this.
    fn client_that_says(&self, what: &str) -> TcpStream {
        let mut client = self.client();
        assert_eq!(exchange(&mut client, what), format!("{what}\n"));
        client
    }

    /// The next lines of its stdout, sorted.
    fn lines<const N: usize>(&self) -> [String; N] {
        let mut lines = [(); N].map(|()| self.process.line());
        lines.sort();
        lines
    }

    /// The processor time that it has used.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, after_name) = stat.rsplit_once(')').expect("a name in brackets");
        let words: Vec<_> = after_name.split_whitespace().collect();
        [words[11], words[12]].iter().map(|word| word.parse::<u64>().expect("a number")).sum()
    }

    /// Ends the program by the end of its input.
    fn end(mut self) {
        self.process.close_stdin();
        let ended = self.process.end();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""));
    }
}

#[test]
fn a_panic_of_a_handler_ends_the_process_with_its_message() {
    let Some(server) = Server::start() else { return };
    let mut other = server.client_that_says("hello");
    server.client_that_says("panic");
    let ended = server.process.end();
    assert_eq!(ended.status.signal(), Some(6), "it aborts: {ended:?}");
    assert!(ended.err.contains("panicked at ") && ended.err.contains("as asked"), "{ended:?}");
    // The connections of the other handlers end with the process.
    assert!(!matches!(other.read(&mut [0]), Ok(1..)));
}

#[test]
fn at_the_deadline_of_a_drain_waits_fail_and_who_goes_on_is_left_behind() {
    let Some(server) = Server::start() else { return };
    let mut clients = ["sleep", "wait", "swallow"].map(|what| server.client_that_says(what));
    let began = Instant::now();
    server.process.ask("stop");
    // Nothing of the third handler is dropped, and the report names it. The others end a moment later if the machine is
    // busy.
    let [sleep, wait, forced, left] = server.lines();
    assert_eq!([&*sleep, &wait, &forced], ["dropped: sleep", "dropped: wait", "forced: 3"]);
    let third = clients[2].local_addr().unwrap().port().to_string();
    assert!(left.split(' ').any(|port| port == third), "{left}, and not {third}");
    assert!(began.elapsed() < SOON);
    for client in &mut clients {
        assert!(read_to_end(client).is_empty());
    }
    // The waits of the third handler go on failing, which costs next to nothing.
    let before = server.ticks();
    thread::sleep(Duration::from_millis(500));
    let used = server.ticks() - before;
    assert!(used < 15, "{used} of 50 ticks");
    // The handler does not keep the process alive.
    server.end();
}

#[test]
fn the_accept_loop_of_a_worker_that_is_held_goes_on_elsewhere() {
    let Some(server) = Server::start() else { return };
    // The first request runs on the worker that accepted it.
    let mut spins = server.client_that_says("spin");
    let (mut served, mut waiting) = (0, Vec::new());
    while served < 4 {
        let mut client = server.client();
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        client.write_all(b"new\n").unwrap();
        if client.read_exact(&mut [0; 4]).is_ok() {
            served += 1;
        } else {
            assert!(waiting.len() < 8, "nobody is served");
            waiting.push(client);
        }
    }
    server.process.ask("over");
    assert_eq!(read_line(&mut spins), "over\n");
    for client in &mut waiting {
        client.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(read_line(client), "new\n");
    }
    // The accept loop of the held worker has ended, and the other worker still accepts.
    for _ in 0..4 {
        server.client_that_says("hello");
    }
    drop((spins, waiting));
    server.process.ask("stop");
    assert_eq!(server.lines(), ["forced: 0", "left:"]);
    server.end();
}
