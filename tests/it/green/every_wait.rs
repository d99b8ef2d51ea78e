//! The deadline of a drain finds a handler in each kind of wait, and in each wait of a long sequence. The wait ends in time
//! by one error, the handler drops all that it has, and nothing is left behind.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::outgoing::connect as connect_to;
use socketserver::park::{Event, sleep};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Green, HandlerResult, Limits, StreamRequest, TcpServer, join, offload,
    stream_fn,
};

use crate::support::{SOON, connect, eventually, inet, read_line};

const HOUR: Duration = Duration::from_secs(3_600);

/// The other side of a handler's own connections: it accepts, and never reads or writes.
struct Silent {
    listener: TcpListener,
}

impl Silent {
    fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn connect(&self) -> io::Result<(impl Read + Write + Send + use<>, TcpStream)> {
        let ours = connect_to(self.listener.local_addr()?, SOON)?;
        Ok((ours, self.listener.accept()?.0))
    }
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Wait = fn(&mut StreamRequest, &Silent) -> HandlerResult;

fn fill(output: &mut impl Write) -> HandlerResult {
    loop {
        output.write_all(&[b'x'; 65_536])?;
    }
}

/// Waits that never end by themselves, with the names of the events that they wait for.
const WAITS: &[(&str, Wait)] = &[
    ("a read", |request, _| Ok(request.read(&mut [0]).map(drop)?)),
    ("a line", |request, _| Ok(request.next_line(&mut String::new()).map(drop)?)),
    ("a chunk", |request, _| Ok(request.chunk().map(drop)?)),
    ("an exact read", |request, _| Ok(request.read_exact(&mut [0; 9])?)),
    ("room to write", |request, _| fill(request)),
    ("a sleep", |_, _| {
        loop {
            sleep(HOUR);
        }
    }),
    ("an event", |_, _| {
        let event = Event::new()?;
        loop {
            event.wait(None)?;
        }
    }),
    ("its own end", |request, _| {
        let stop = request.stop_token()?;
        while !stop.wait_closed(None) {}
        Ok(())
    }),
    ("a read from another server", |_, silent| {
        let (mut ours, _theirs) = silent.connect()?;
        Ok(ours.read(&mut [0]).map(drop)?)
    }),
    ("room to write to another server", |_, silent| {
        let (mut ours, _theirs) = silent.connect()?;
        fill(&mut ours)
    }),
    ("a connection to a listener whose queue is full", |_, _| {
        // Some connections fill the queue, and none is accepted.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>()?.into())?;
        full.listen(0)?;
        let address = full.local_addr()?.as_socket().ok_or("an address")?;
        let mut all = Vec::new();
        loop {
            all.push(connect_to(address, HOUR)?);
        }
    }),
    ("an offload", |_, silent| {
        let listener = silent.listener.try_clone()?;
        Ok(offload(move || drop(listener.accept()))?)
    }),
    ("two sleeps at once", |_, _| {
        join(
            || loop {
                sleep(HOUR);
            },
            || loop {
                sleep(HOUR);
            },
        )?;
        Ok(())
    }),
    ("a join in a join in a join", |_, silent| {
        let (mut ours, _theirs) = silent.connect()?;
        let ((), ((), ((), read))) = join(
            || sleep(HOUR),
            || {
                join(|| sleep(HOUR), || join(|| sleep(HOUR), || ours.read(&mut [0])).unwrap())
                    .unwrap()
            },
        )?;
        read?;
        Ok(())
    }),
    ("input, of two halves", |request, _| {
        let (mut input, _output) = request.split()?;
        Ok(input.read(&mut [0]).map(drop)?)
    }),
    ("room, of two halves", |request, _| {
        let (_input, mut output) = request.split()?;
        fill(&mut output)
    }),
    ("both halves at once", |request, _| {
        let (mut input, mut output) = request.split()?;
        let (read, filled) =
            join(|| input.read(&mut [0]), || fill(&mut output).map_err(|e| e.to_string()))?;
        read?;
        Ok(filled?)
    }),
    ("both halves, each with a join of its own", |request, silent| {
        let (mut input, mut output) = request.split()?;
        let (mut ours, _theirs) = silent.connect()?;
        let (read, filled) = join(
            || join(|| input.read(&mut [0]), || sleep(HOUR)).map(|(read, ())| read),
            || join(|| ours.read(&mut [0]), || fill(&mut output).map_err(|e| e.to_string())),
        )?;
        read??;
        let (read, filled) = filled?;
        read?;
        Ok(filled?)
    }),
    ("a line, in an outbox's turn", |request, _| {
        let outbox = request.outbox()?;
        outbox.send(vec![b'x'; 100])?;
        Ok(request.next_line(&mut String::new()).map(drop)?)
    }),
    ("the wait after one that failed", |request, _| {
        let _ = request.read(&mut [0]);
        loop {
            sleep(HOUR);
        }
    }),
    ("a wait in a drop", |_, _| {
        struct Waits;
        impl Drop for Waits {
            fn drop(&mut self) {
                sleep(HOUR);
            }
        }
        let _waits = Waits;
        sleep(HOUR);
        Ok(())
    }),
    ("a wait in a panic's drop", |_, silent| {
        struct Reads<R: Read>(R);
        impl<R: Read> Drop for Reads<R> {
            fn drop(&mut self) {
                // The read fails at once, because nothing waits during a panic.
                assert!(self.0.read(&mut [0]).is_err());
            }
        }
        let (ours, _theirs) = silent.connect()?;
        let _reads = Reads(ours);
        loop {
            sleep(HOUR);
        }
    }),
];

/// A server with one worker, and the number of values that its handler has dropped.
struct Ends {
    server: BackgroundServer<Tcp, Green>,
    dropped: Arc<AtomicUsize>,
}

impl Ends {
    fn new(
        drain: Duration,
        wait: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
    ) -> Self {
        let dropped = Arc::new(AtomicUsize::new(0));
        let drops = Arc::clone(&dropped);
        let handler = stream_fn(move |request: &mut StreamRequest| {
            let _counted = Counted(Arc::clone(&drops));
            wait(request)
        });
        let limits = Limits::default().drain(drain);
        let server = TcpServer::builder().mixin(Green::new().workers(1)).limits(limits);
        let server = server.observer(|_| {}).bind("127.0.0.1:0", handler).unwrap();
        Self { server: server.serve_in_background().unwrap(), dropped }
    }

    /// Fails unless its one request ends in time, and has dropped what it had.
    fn ends_in_time(self, at: &str) {
        let began = Instant::now();
        let report = self.server.stop().unwrap();
        assert!(began.elapsed() < SOON, "{at}: {:?}", began.elapsed());
        // On a quiet machine the request has ended before the close returns.
        eventually(&format!("{at}: {report}"), || self.dropped.load(Ordering::SeqCst) == 1);
    }
}

#[test]
fn a_drain_ends_every_kind_of_wait() {
    for (at, wait) in WAITS {
        let silent = Arc::new(Silent::new());
        let address = silent.listener.local_addr().unwrap();
        let (begins, begun) = channel();
        let begins = Mutex::new(begins);
        let ends = Ends::new(Duration::from_millis(20), move |request| {
            begins.lock().unwrap().send(()).unwrap();
            wait(request, &silent)
        });
        let client = connect(inet(&*ends.server));
        begun.recv_timeout(SOON).unwrap();
        ends.ends_in_time(at);
        drop(client);
        // The thread of `offload` goes on by itself.
        let _ = TcpStream::connect(address);
    }
}

/// Waits of every kind that end by themselves, one after the other, for ever.
fn many_waits(request: &mut StreamRequest, mut waits: impl FnMut()) -> HandlerResult {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    loop {
        waits();
        sleep(Duration::from_millis(1));
        waits();
        let mut ours = connect_to(listener.local_addr()?, SOON)?;
        let mut theirs = listener.accept()?.0;
        waits();
        join(|| sleep(Duration::from_millis(1)), || join(|| sleep(Duration::ZERO), || ()))?.1?;
        waits();
        let (sent, read) = join(
            || offload(move || theirs.write_all(b"x")),
            || ours.read_exact(&mut [0]).map_err(|error| error.to_string()),
        )?;
        sent??;
        read?;
        waits();
        let event = Event::new()?;
        join(|| event.notify(), || while matches!(event.wait(Some(SOON)), Ok(false)) {})?;
        waits();
        writeln!(request, "more")?;
        request.read_exact(&mut [0])?;
    }
}

#[test]
fn a_drain_ends_a_handler_at_any_of_its_waits() {
    for number in 0..60 {
        let (comes, came) = channel();
        let comes = Mutex::new(comes);
        let ends = Ends::new(Duration::from_millis(1), move |request| {
            let mut count = 0;
            many_waits(request, || {
                if count == number {
                    comes.lock().unwrap().send(()).unwrap();
                }
                count += 1;
            })
        });
        let mut client = connect(inet(&*ends.server));
        let mut echoes = client.try_clone().unwrap();
        let peer = thread::spawn(move || {
            let mut some = [0; 64];
            while matches!(echoes.read(&mut some), Ok(1..)) {
                if echoes.write_all(b"x").is_err() {
                    break;
                }
            }
        });
        let _ = client.flush();
        came.recv_timeout(SOON).unwrap();
        ends.ends_in_time(&format!("wait {number}"));
        peer.join().unwrap();
    }
}

/// Of four closures that run at once, each waits for the one before it, and each gets its turn.
#[test]
fn joins_within_joins_within_a_split_all_go_on() {
    let ends = Ends::new(SOON, |request| {
        let events: Vec<Event> = (0..3).map(|_| Event::new()).collect::<io::Result<_>>()?;
        let after = |number: usize| events[number].wait(Some(SOON)).map(drop);
        let (mut input, mut output) = request.split()?;
        let mut byte = [0];
        let (first, rest) = join(
            || input.read_exact(&mut byte).map(|()| events[0].notify()),
            || {
                join(
                    || after(0).map(|()| events[1].notify()),
                    || {
                        join(
                            || after(1).map(|()| events[2].notify()),
                            || after(2).and_then(|()| output.write_all(b"all\n")),
                        )
                    },
                )
            },
        )?;
        first?;
        let (second, rest) = rest?;
        second?;
        let (third, fourth) = rest?;
        third?;
        Ok(fourth?)
    });
    let mut client = connect(inet(&*ends.server));
    client.write_all(b"x").unwrap();
    assert_eq!(read_line(&mut client), "all\n");
    ends.ends_in_time("all of them");
}
