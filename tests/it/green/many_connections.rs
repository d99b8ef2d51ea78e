//! Ten thousand connections in one process: held, active, drained and reported. Their figures are in DESIGN.md:
//!
//! ```text
//! cargo test --release --test it many_connections -- --nocapture
//! ```
//!
//! The clients are a process of their own, because each connection takes a descriptor at both ends.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socketserver::{
    Green, HandlerResult, Limits, StreamRequest, TcpServer, join, sleep, stream_fn,
};

use crate::support::process::{answer, child, in_a_process, is_child};
use crate::support::system::{descriptor_limits, own_status, set_descriptor_limits};
use crate::support::{connect, eventually, exchange, inet, read_line, read_to_end};

/// How many connections there are, if the process may have so many descriptors. One in ten sleeps for an hour.
const MANY: usize = 10_000;

/// Descriptors for everything else.
const OTHERS: u64 = 100;

const HOUR: Duration = Duration::from_secs(3_600);

const CLIENTS: &str = "green::many_connections::the_clients_of_many_connections";
const SERVER: &str =
    "green::many_connections::many_connections_are_held_active_drained_and_reported";

/// Does what the parent says.
#[test]
fn the_clients_of_many_connections() {
    if !is_child(CLIENTS) {
        return;
    }
    raise_descriptors();
    let mut clients: Vec<TcpStream> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let began = Instant::now();
        match words.next().unwrap() {
            "connect" => {
                let address: SocketAddr = words.next().unwrap().parse().unwrap();
                let many = words.next().unwrap().parse().unwrap();
                clients.extend((0..many).map(|_| connect(address)));
                all_say(&mut clients, "hello");
            }
            "ask" => (0..5).for_each(|_| all_say(&mut clients, "once more")),
            "sleep" => {
                let many: usize = words.next().unwrap().parse().unwrap();
                all_say(&mut clients[..many], "sleep");
            }
            "end" => clients.iter_mut().for_each(|client| assert!(read_to_end(client).is_empty())),
            other => panic!("{other}?"),
        }
        answer(format!("{:.3}", began.elapsed().as_secs_f64()));
    }
}

/// Lets every client send a line, and then every client receive its answer.
fn all_say(clients: &mut [TcpStream], what: &str) {
    for client in &mut *clients {
        writeln!(client, "{what}").unwrap();
    }
    for client in clients {
        assert_eq!(read_line(client), format!("{what}\n"));
    }
}

fn raise_descriptors() {
    let (_, hard) = descriptor_limits();
    set_descriptor_limits(hard, hard);
}

fn lines(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let sleeps = text == "sleep";
        let answer = format!("{text}\n");
        request.write_all(answer.as_bytes())?;
        if sleeps {
            join(|| sleep(HOUR), || sleep(HOUR))?;
        }
    }
    Ok(())
}

#[test]
fn many_connections_are_held_active_drained_and_reported() {
    let room = descriptor_limits().1.saturating_sub(OTHERS);
    let many = usize::try_from(room).unwrap_or(MANY).min(MANY);
    if let Some(ended) = in_a_process(SERVER, || held_active_drained_and_reported(many)) {
        println!("{}", ended.out);
    }
}

fn held_active_drained_and_reported(many: usize) -> String {
    raise_descriptors();
    let limits = Limits::default().live(2 * many).per_peer(2 * many).idle(HOUR);
    let limits = limits.drain(Duration::from_secs(2));
    let server = TcpServer::builder().mixin(Green::new().workers(2)).limits(limits);
    let server = server.observer(|_| {}).bind("127.0.0.1:0", stream_fn(lines)).unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    let clients = child(CLIENTS);
    let seconds = |order: &str| -> f64 {
        clients.ask(order);
        clients.answer().parse().unwrap()
    };
    let tables = own_status("VmPTE");
    let memory = own_status("VmRSS");

    let connected = seconds(&format!("connect {address} {many}"));
    assert_eq!(server.context().live_count(), many);
    let memory = own_status("VmRSS").saturating_sub(memory);
    let tables = own_status("VmPTE").saturating_sub(tables);
    let asked = seconds("ask");
    // A new client is served beside them.
    assert_eq!(exchange(&mut connect(address), "new"), "new\n");
    eventually("it has left", || server.context().live_count() == many);
    let asleep = many / 10;
    seconds(&format!("sleep {asleep}"));

    let began = Instant::now();
    let report = server.server_close();
    let drained = began.elapsed();
    // On a busy machine the last of the others are cut off as well, and the sleepers end after the close.
    let forced = report.forced.len();
    assert!(
        report.open_at_start == many && forced >= asleep,
        "{forced} of {}",
        report.open_at_start
    );
    eventually("all have ended", || server.context().live_count() == 0);
    seconds("end");
    format!(
        "{many} connections: made in {connected:.2} s, {:.2} KiB of memory and {:.2} KiB of page tables each; \
         {:.0} answers a second to all of them at once; drained in {:.2} s, of which 2 s are the drain's, \
         {forced} of them cut off and named",
        memory as f64 / many as f64,
        tables as f64 / many as f64,
        5.0 * many as f64 / asked,
        drained.as_secs_f64(),
    )
}
