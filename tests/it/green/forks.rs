//! Handlers that fork. A child has a copy of its handler's thread and of every descriptor; the worker's set and all other
//! requests are its parent's.

#![allow(unsafe_code, reason = "std does not fork")]

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::park::{Event, sleep};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Green, HandlerResult, StreamRequest, TcpServer, join, offload, stream_fn,
};

use crate::forks::{exit_now, fork, status_of};
use crate::support::{SOON, alone, connect, exchange, inet, read_line};

/// Waits in every way. A child has one thread, and blocks it, which disturbs nobody.
fn wait_in_every_way(request: &mut StreamRequest) -> io::Result<()> {
    sleep(Duration::from_millis(20));
    let event = Arc::new(Event::new()?);
    let told = Arc::clone(&event);
    let ((), sum) = join(
        || while matches!(event.wait(Some(SOON)), Ok(false)) {},
        || {
            sleep(Duration::from_millis(10));
            told.notify();
            1 + 1
        },
    )?;
    let more = offload(|| 3)?;
    // The parent has read nothing of what comes next, because it waits for the child's end.
    writeln!(request, "in the child")?;
    request.read_exact(&mut [0])?;
    writeln!(request, "from the child: {}", sum + more)
}

/// Serves lines, at some of which the handler forks.
fn serving(told: Sender<Option<i32>>) -> BackgroundServer<Tcp, Green> {
    let told = Mutex::new(told);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let text = text.to_owned();
            let answer = format!("{text}\n");
            match text.as_str() {
                "fork" => match fork()? {
                    Some(child) => told.lock().send(status_of(child)?)?,
                    None => {
                        let _ = wait_in_every_way(request);
                        exit_now();
                    }
                },
                "return" => match fork()? {
                    Some(child) => told.lock().send(status_of(child)?)?,
                    None => return Ok(()),
                },
                "program" => {
                    let mut command = Command::new("true");
                    // SAFETY: the closure does nothing. Because of it std forks, and does not use posix_spawn.
                    unsafe { command.pre_exec(|| Ok(())) };
                    told.lock().send(offload(move || command.status())??.code())?;
                }
                _ => {}
            }
            request.write_all(answer.as_bytes())?;
        }
        Ok(())
    });
    let server = TcpServer::builder().mixin(Green::new().workers(1)).observer(|_| {});
    server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap()
}

/// Runs a test while other clients of the same worker keep sending lines, each of which has one answer.
fn beside_others(server: &BackgroundServer<Tcp, Green>, test: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut clients: Vec<_> = (0..20).map(|_| connect(inet(&**server))).collect();
            let mut rounds = 0;
            while !is_over.load(Ordering::SeqCst) || rounds < 10 {
                for (number, client) in clients.iter_mut().enumerate() {
                    let line = format!("{number} in round {rounds}");
                    assert_eq!(exchange(client, &line), format!("{line}\n"));
                }
                rounds += 1;
            }
            for client in &mut clients {
                client.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                assert!(client.read(&mut [0]).is_err(), "a line was answered twice");
            }
        });
        test();
        is_over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_child_of_a_handler_waits_as_a_thread_and_takes_nothing_of_its_parents() {
    const NAME: &str =
        "green::forks::a_child_of_a_handler_waits_as_a_thread_and_takes_nothing_of_its_parents";
    alone(NAME, || {
        let (tells, told) = channel();
        let server = serving(tells);
        beside_others(&server, || {
            let mut client = connect(inet(&*server));
            for _ in 0..10 {
                assert_eq!(exchange(&mut client, "fork"), "in the child\n");
                client.write_all(b"x").unwrap();
                assert_eq!(read_line(&mut client), "from the child: 5\n");
                assert_eq!(told.recv_timeout(SOON).unwrap(), Some(0));
                assert_eq!(read_line(&mut client), "fork\n");
                assert_eq!(exchange(&mut client, "program"), "program\n");
                assert_eq!(told.recv_timeout(SOON).unwrap(), Some(0));
            }
        });
        assert!(server.stop().unwrap().is_clean());
    });
}

#[test]
fn a_child_whose_handler_returns_ends_and_serves_nobody() {
    const NAME: &str = "green::forks::a_child_whose_handler_returns_ends_and_serves_nobody";
    alone(NAME, || {
        let (tells, told) = channel();
        let server = serving(tells);
        beside_others(&server, || {
            for _ in 0..10 {
                let mut client = connect(inet(&*server));
                assert_eq!(exchange(&mut client, "return"), "return\n");
                assert_eq!(told.recv_timeout(SOON).unwrap(), Some(0));
                assert_eq!(exchange(&mut client, "once more"), "once more\n");
            }
        });
        assert!(server.stop().unwrap().is_clean());
    });
}
