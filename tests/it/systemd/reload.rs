//! SIGHUP under `run`: it reloads what the program has registered, and otherwise stops the server. (A SIGHUP that tells
//! of the end of a terminal is tested with `chat`.)

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use socketserver::mixin::Mixin;
use socketserver::monitor::ServerEvent;
use socketserver::{
    BaseServer, Inline, Pool, ServerHooks, StreamRequest, TcpServer, Threading, run_all, stream_fn,
};

use crate::handlers::Diary;
use crate::support::activation::in_bash;
use crate::support::process::{Process, answer, child_command, is_child};
use crate::support::{StopOnPanic, alone, connect, eventually, exchange, inet, system};

struct Warned(Diary);

impl ServerHooks for Warned {
    fn warning(&self, text: &str) {
        self.0.note(text.split(": ").last().unwrap().to_owned());
    }
}

fn hang_up() {
    system::send_signal(std::process::id(), libc::SIGHUP);
}

fn a_reload_runs_all_and_a_failure_ends_nothing<M: Mixin + 'static>(mixin: M) {
    let diary = Diary::default();
    let told = diary.clone();
    let (first, second) = (diary.clone(), diary.clone());
    let count = AtomicU32::new(0);
    let server = TcpServer::builder()
        .mixin(mixin)
        .hooks(Warned(diary.clone()))
        .observer(move |event| {
            if let ServerEvent::Reloaded { error, .. } = event {
                told.note(format!("told: {}", error.is_some()));
            }
        })
        .on_reload(move |_server| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Err("no certificate".into()),
            1 => panic!("a mistake"),
            _ => {
                first.note("first");
                Ok(())
            }
        })
        .on_reload(move |server| {
            second.note(format!("second, ready: {}", server.live_count()));
            Ok(())
        })
        .bind("127.0.0.1:0", stream_fn(echo))
        .unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.run());
        let _stop = StopOnPanic(&server);
        // The answer comes from the loop, which `run` has begun after it took the signals.
        let mut client = connect(inet(&server));
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        for lines in [3, 6, 9] {
            hang_up();
            eventually("the reload is over", || diary.lines().len() == lines);
        }
        // All of that came in the middle of this connection, which goes on.
        assert_eq!(exchange(&mut client, "again"), "again\n");
        // `reload` does the same without a signal.
        server.reload();
        drop(client);
        system::send_signal(std::process::id(), libc::SIGTERM);
        assert!(running.join().unwrap().unwrap().is_clean());
    });
    let second = "second, ready: 1";
    let of_panic = diary.lines()[3].clone();
    assert!(of_panic.contains("a mistake"), "{of_panic}");
    assert_eq!(
        diary.lines(),
        [
            "no certificate",
            second,
            "told: true",
            &of_panic,
            second,
            "told: true",
            "first",
            second,
            "told: false",
            "first",
            second,
            "told: false"
        ]
    );
}

fn echo(request: &mut StreamRequest) -> socketserver::HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

#[test]
fn a_reload_runs_all_and_a_failure_ends_nothing_inline() {
    alone("systemd::reload::a_reload_runs_all_and_a_failure_ends_nothing_inline", || {
        a_reload_runs_all_and_a_failure_ends_nothing(Inline);
    });
}

#[test]
fn a_reload_runs_all_and_a_failure_ends_nothing_threading() {
    alone("systemd::reload::a_reload_runs_all_and_a_failure_ends_nothing_threading", || {
        a_reload_runs_all_and_a_failure_ends_nothing(Threading::new());
    });
}

#[test]
fn a_reload_runs_all_and_a_failure_ends_nothing_pool() {
    alone("systemd::reload::a_reload_runs_all_and_a_failure_ends_nothing_pool", || {
        a_reload_runs_all_and_a_failure_ends_nothing(Pool::new(2));
    });
}

#[test]
fn several_servers_of_a_process_reload_at_one_signal() {
    alone("systemd::reload::several_servers_of_a_process_reload_at_one_signal", || {
        let diary = Diary::default();
        let server = |name: &'static str| -> Arc<TcpServer> {
            let diary = diary.clone();
            let builder = TcpServer::builder().on_reload(move |_server| {
                diary.note(name);
                Ok(())
            });
            Arc::new(builder.bind("127.0.0.1:0", stream_fn(echo)).unwrap())
        };
        let (one, two) = (server("one"), server("two"));
        let silent = TcpServer::bind("127.0.0.1:0", stream_fn(echo)).unwrap();
        let servers: Vec<Box<dyn BaseServer>> =
            vec![Box::new(Arc::clone(&one)), Box::new(Arc::clone(&two)), Box::new(silent)];
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run_all(&servers, Duration::from_secs(10), || ()));
            let _stop = servers.iter().map(|server| StopOnPanic(&**server)).collect::<Vec<_>>();
            for server in [&one, &two] {
                assert_eq!(exchange(&mut connect(inet(&**server)), "hello"), "hello\n");
            }
            hang_up();
            eventually("both reload", || diary.lines().len() == 2);
            system::send_signal(std::process::id(), libc::SIGTERM);
            running.join().unwrap().unwrap();
        });
        let mut lines = diary.lines();
        lines.sort_unstable();
        assert_eq!(lines, ["one", "two"]);
    });
}

const STOPS: &str = "systemd::reload::without_a_reload_sighup_stops_the_server_in_order";

#[test]
fn without_a_reload_sighup_stops_the_server_in_order() {
    if is_child(STOPS) {
        let server = TcpServer::builder().mixin(Threading::new());
        let server = server.bind("127.0.0.1:0", stream_fn(echo)).unwrap();
        answer(inet(&server));
        let report = server.run().unwrap();
        assert!(report.is_clean(), "{report}");
        return;
    }
    let child = Process::start(child_command(STOPS).stdin(Stdio::null()).stdout(Stdio::piped()));
    let address = child.answer().parse().unwrap();
    let mut client = connect(address);
    client.write_all(b"half").unwrap();
    // When this client is answered, the one before it was accepted.
    assert_eq!(exchange(&mut connect(address), "hello"), "hello\n");
    child.send_signal(libc::SIGHUP);
    child.send_signal(libc::SIGHUP);
    assert_eq!(exchange(&mut client, " and half"), "half and half\n");
    assert!(child.end().status.success());
}

const OWN: &str = "systemd::reload::a_program_with_a_handler_of_its_own_keeps_it";

#[test]
fn a_program_with_a_handler_of_its_own_keeps_it() {
    if is_child(OWN) {
        let came = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGHUP, Arc::clone(&came)).unwrap();
        let handler = stream_fn(move |request: &mut StreamRequest| {
            let mut line = String::new();
            request.next_line(&mut line)?;
            Ok(writeln!(request, "{}", came.load(Ordering::SeqCst))?)
        });
        let server = TcpServer::bind("127.0.0.1:0", handler).unwrap();
        answer(inet(&server));
        server.run().unwrap();
        return;
    }
    let child = Process::start(child_command(OWN).stdin(Stdio::null()).stdout(Stdio::piped()));
    let address = child.answer().parse().unwrap();
    assert_eq!(exchange(&mut connect(address), ""), "false\n");
    child.send_signal(libc::SIGHUP);
    eventually("it comes", || exchange(&mut connect(address), "") == "true\n");
    child.send_signal(libc::SIGTERM);
    assert!(child.end().status.success());
}

const NOHUP: &str = "systemd::reload::an_ignored_sighup_stays_ignored";

#[test]
fn an_ignored_sighup_stays_ignored() {
    if is_child(NOHUP) {
        let reload = |_server: &socketserver::ServerContext| -> socketserver::HandlerResult {
            std::process::exit(3)
        };
        let server = TcpServer::builder().on_reload(reload);
        let server = server.bind("127.0.0.1:0", stream_fn(echo)).unwrap();
        answer(inet(&server));
        server.run().unwrap();
        return;
    }
    let mut command = in_bash("trap '' HUP; exec \"$0\" \"$@\"", &child_command(NOHUP));
    let child = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let address = child.answer().parse().unwrap();
    let mut client = connect(address);
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    child.send_signal(libc::SIGHUP);
    assert_eq!(exchange(&mut client, "again"), "again\n");
    drop(client);
    child.send_signal(libc::SIGTERM);
    assert!(child.end().status.success());
}
