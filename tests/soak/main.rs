//! The soak: bad clients of every kind at once against servers with the mixin `Green`, for as long as one likes. It
//! tells whether every request that was not killed on purpose is answered, and whether anything grows.
//!
//! ```text
//! cargo run --release -p soak -- --seconds 1200 > bench/RESULTS-soak.md
//! cargo run --release -p soak -- --seconds 20          # as in CI
//! ```
//!
//! The servers are a process of their own: two that last, over TCP and over a Unix socket, and a third that is drained and
//! begins anew all the time, with requests that no drain can wait for. Clients (`clients.rs`) come in turns. After each turn
//! they pause, and when no request is left the process is measured. The first turns are for warming up. The soak ends with
//! status 1 if a request is lost or something grows.

mod clients;
mod heap;
mod measure;
mod servers;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clients::{Clients, Tally};
use measure::Measure;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// The first turns, of which nothing is compared.
const WARM_UP: usize = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => servers::run(),
        ["--seconds", seconds] => match seconds.parse() {
            Ok(seconds) => return soak(Duration::from_secs(seconds)),
            Err(error) => eprintln!("--seconds {seconds}: {error}"),
        },
        _ => eprintln!("usage: soak --seconds N"),
    }
    ExitCode::from(2)
}

/// The process with the servers.
struct Servers {
    process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Servers {
    fn start() -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut process = Command::new(program)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Failures of handlers are reported there.
            .stderr(Stdio::null())
            .spawn()
            .expect("the servers start");
        let asks = process.stdin.take().expect("it is a pipe");
        let answers = BufReader::new(process.stdout.take().expect("it is a pipe"));
        Self { process, asks, answers }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the servers answer");
        assert!(!line.is_empty(), "the servers have ended");
        line.trim_end().to_owned()
    }

    /// Asks, and gets an answer of one line.
    fn ask(&mut self, what: &str) -> String {
        writeln!(self.asks, "{what}").expect("the servers listen");
        self.line()
    }
}

fn soak(time: Duration) -> ExitCode {
    let mut servers = Servers::start();
    let addresses = servers.line();
    let turn = (time / 20).clamp(Duration::from_millis(1_500), Duration::from_secs(20));
    let clients = Clients::start(&addresses);
    let (began, mut measures) = (Instant::now(), Vec::new());
    while began.elapsed() < time || measures.len() < WARM_UP + 2 {
        assert_eq!(servers.ask("go"), "go");
        clients.go_on();
        std::thread::sleep(turn);
        clients.pause();
        // This waits until no request is left, and then for the end of idle threads, such as those of `offload`.
        let quiet = servers.ask("quiet");
        assert_eq!(quiet, "quiet", "a request does not end");
        let heap = servers.ask("heap");
        let measure = Measure::of(servers.process.id(), &heap);
        eprintln!("{:5.0} s: {measure}", began.elapsed().as_secs_f64());
        measures.push(measure);
    }
    let took = began.elapsed();
    let tally = clients.end();
    let drains = servers.ask("end");
    let status = servers.process.wait().expect("the servers end");
    let grown = measure::growth(&measures[WARM_UP..]);
    print_page(took, &tally, &drains, &measures);
    for problem in tally.lost.iter().take(20).chain(&grown) {
        println!("\n**{problem}**");
    }
    let is_good = tally.lost.is_empty() && grown.is_empty() && status.success();
    ExitCode::from(u8::from(!is_good))
}

fn print_page(took: Duration, tally: &Tally, drains: &str, measures: &[Measure]) {
    println!(
        "# The soak\n\nBad clients of every kind at once, against servers with the mixin `Green` in one process. The head of"
    );
    println!("[`tests/soak`](../tests/soak/main.rs) describes the test; the command is:\n");
    println!("```sh\ncargo run --release -p soak -- --seconds 1200 > bench/RESULTS-soak.md\n```\n");
    let (answered, killed) = (tally.sum(|kind| kind.answered), tally.sum(|kind| kind.killed));
    println!(
        "{:.1} minutes, {answered} requests answered, {killed} killed on purpose, {} lost. {drains}.\n",
        took.as_secs_f64() / 60.0,
        tally.lost.len()
    );
    println!("| clients that | answered | killed on purpose |\n|---|---|---|");
    for kind in &tally.kinds {
        println!("| {} | {} | {} |", kind.what, kind.answered, kind.killed);
    }
    println!("\nThe process of the servers, at moments without requests:\n");
    println!(
        "| after turn | heap in use | in blocks | memory (PSS) | descriptors | mappings | threads |\n|---|---|---|---|---|---|---|"
    );
    let step = (measures.len() / 10).max(1);
    for (number, measure) in measures.iter().enumerate() {
        if number < WARM_UP || number % step == 0 || number + 1 == measures.len() {
            println!("| {} | {} |", number + 1, measure.cells());
        }
    }
}
