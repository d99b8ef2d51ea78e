//! The limits and ends of a plain connection hold for a wrapped one as well, however it is wrapped.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socketserver::monitor::{Activity, CloseReason};
use socketserver::request::{LineTooLong, TimedOut, Timeout};
use socketserver::{HandlerError, HandlerResult, Limits, StreamRequest};

use super::framed::Client;
use super::{HOUR, MOMENT, Served, WAYS, Way, patient, read_word, serve};
use crate::support::{SOON, eventually, exchange, hear, read_line, read_to_end, soon};

/// Sends every line back.
fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

#[test]
fn lines_of_any_length_and_an_end_in_order() {
    for way in WAYS {
        let served = serve(way, patient(), echo);
        let mut client = served.client();
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        let long = "x".repeat(60_000);
        assert_eq!(exchange(&mut client, &long), format!("{long}\n"));
        // The peer ends its side, and still gets the answers that are due.
        client.write_all(b"last\n").unwrap();
        client.end();
        assert_eq!(read_to_end(&mut client), b"last\n", "{way:?}");
        served.assert_ends_as(CloseReason::Completed);
    }
}

#[test]
fn bytes_are_counted_as_they_go_over_the_wire() {
    for (way, expected) in [
        (Way::Plain, (6, 6)),
        // A hello, a record and the end: 4 + 8 + 2; and a welcome, a record and the end: 2 + 8 + 2.
        (Way::Hook, (14, 12)),
        (Way::Middle, (14 + 9, 12 + 9)),
    ] {
        let served = serve(way, patient(), |request| {
            let (mut line, before) = (String::new(), request.bytes_sent());
            request.next_line(&mut line)?;
            writeln!(request, "{line}")?;
            assert!(request.bytes_sent() >= before + 6);
            while request.next_line(&mut line)?.is_some() {}
            Ok(())
        });
        let mut client = served.client();
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        client.end();
        assert_eq!(read_to_end(&mut client), b"");
        assert_eq!(served.end().bytes, expected, "{way:?}");
    }
}

/// Asserts which limit ends a request, given its handler and its client.
fn ends_by(
    limits: Limits,
    expected: (CloseReason, Option<Timeout>),
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Copy + Send + Sync + 'static,
    act: impl Fn(&mut Client),
) {
    for way in WAYS {
        let (limit, limits_met) = channel();
        let limit = Mutex::new(limit);
        let served = serve(way, limits, move |request| {
            let result = handle(request);
            let met = result.as_ref().err().and_then(|error| TimedOut::find(&**error));
            limit.lock().unwrap().send(met.map(TimedOut::which))?;
            result
        });
        let mut client = served.client();
        act(&mut client);
        assert_eq!(limits_met.recv_timeout(SOON).unwrap(), expected.1, "{way:?}");
        served.assert_ends_as(expected.0);
    }
}

fn write_on(request: &mut StreamRequest) -> HandlerResult {
    loop {
        request.write_all(&[b'x'; 65_536])?;
    }
}

#[test]
fn the_limits() {
    let timed_out = |limit| (CloseReason::TimedOut, Some(limit));
    let idle = patient().idle(MOMENT);
    ends_by(idle, (CloseReason::Idle, Some(Timeout::Idle)), echo, |_client| ());
    let read = patient().read(MOMENT);
    ends_by(read, timed_out(Timeout::Read), echo, |client| client.write_all(b"half").unwrap());
    let write = patient().write(MOMENT);
    ends_by(write, timed_out(Timeout::Write), write_on, |_client| ());
    let request = patient().request(5 * MOMENT);
    ends_by(request, timed_out(Timeout::Request), echo, |_client| ());
    ends_by(request, timed_out(Timeout::Request), write_on, |_client| ());
    let own = |request: &mut StreamRequest| {
        request.set_timeout(Some(MOMENT));
        echo(request)
    };
    ends_by(patient(), timed_out(Timeout::Read), own, |_client| ());
    let line = patient().line_bytes(100);
    ends_by(line, (CloseReason::LineTooLong, None), echo, |client| {
        client.write_all(&[b'x'; 200]).unwrap();
    });
}

#[test]
fn a_byte_now_and_then_does_not_extend_a_read() {
    let read = patient().read(2 * MOMENT);
    ends_by(read, (CloseReason::TimedOut, Some(Timeout::Read)), echo, |client| {
        for _ in 0..40 {
            // The pace is the point: a tenth of the limit for each byte.
            if client.write_all(b"x").is_err() {
                break;
            }
            std::thread::sleep(MOMENT / 5);
        }
    });
}

#[test]
fn a_limit_that_the_handler_survives_leaves_the_connection_usable() {
    for way in WAYS {
        let served = serve(way, patient(), |request| {
            let mut line = String::new();
            request.set_timeout(Some(MOMENT));
            let error = request.next_line(&mut line).unwrap_err();
            assert!(TimedOut::find(&error).is_some());
            writeln!(request, "here")?;
            request.set_timeout(None);
            echo(request)
        });
        let mut client = served.client();
        read_word(&mut client);
        assert_eq!(exchange(&mut client, "hello"), "hello\n", "{way:?}");
    }
}

#[test]
fn a_peer_that_goes_away() {
    for way in WAYS {
        let here = |request: &mut StreamRequest| {
            writeln!(request, "here")?;
            echo(request)
        };
        // The client leaves with a reset.
        let served = serve(way, patient(), here);
        let mut client = served.client();
        read_word(&mut client);
        socket2::SockRef::from(&client.bare).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        served.assert_ends_as(CloseReason::Disconnected);
        // The client leaves in the middle of the announced bytes.
        let served = serve(way, patient(), |request| {
            writeln!(request, "here")?;
            Ok(request.read_exact(&mut [0; 100])?)
        });
        let mut client = served.client();
        read_word(&mut client);
        client.write_all(b"half").unwrap();
        client.end();
        served.assert_ends_as(CloseReason::Disconnected);
        // The client leaves without the end that the wrapper expects.
        if way != Way::Plain {
            let served = serve(way, patient(), here);
            let mut client = served.client();
            read_word(&mut client);
            client.bare.shutdown(Shutdown::Write).unwrap();
            served.assert_ends_as(CloseReason::Disconnected);
            assert!(served.end().quiet);
        }
    }
}

/// Stops the server, which must not take long.
fn stop(served: Served) -> Arc<Mutex<Vec<super::End>>> {
    let ends = Arc::clone(&served.ends);
    soon("a stop", move || served.server.stop()).unwrap();
    ends
}

fn wait_for(served: &Served, activity: Activity) {
    let context = served.server.context();
    eventually("it waits", || context.live().iter().any(|live| live.activity == activity));
}

#[test]
fn a_drain_ends_an_idle_wait_at_once_and_in_order() {
    for way in WAYS {
        let served = serve(way, patient().drain(HOUR), echo);
        let mut client = served.client();
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        wait_for(&served, Activity::Idle);
        let ends = stop(served);
        assert_eq!(read_to_end(&mut client), b"", "{way:?}");
        assert_eq!(ends.lock().unwrap()[0].reason, CloseReason::Stopped, "{way:?}");
    }
}

#[test]
fn a_drain_waits_for_what_has_begun() {
    for way in WAYS {
        let served = serve(way, patient().drain(HOUR), |request| {
            writeln!(request, "here")?;
            echo(request)
        });
        let mut client = served.client();
        read_word(&mut client);
        let before = served.server.context().live()[0].bytes_in;
        // The client sends a part of a record, or of a plain line.
        let record = client.tls_record(b"hello\n");
        match (way, &record) {
            (_, Some(record)) => client.bare.write_all(&record[..10]).unwrap(),
            (Way::Plain, _) => client.write_all(b"he").unwrap(),
            _ => client.bare.write_all(&[0]).unwrap(),
        }
        eventually("it has begun", || {
            let live = &served.server.context().live()[0];
            live.bytes_in > before && live.activity == Activity::Receiving
        });
        let (ends, handle) = (Arc::clone(&served.ends), served.server.context().shutdown_handle());
        let stopping = std::thread::spawn(move || served.server.stop());
        eventually("it stops", || handle.is_shutdown());
        match (way, record) {
            (_, Some(record)) => client.bare.write_all(&record[10..]).unwrap(),
            (Way::Plain, _) => client.write_all(b"llo\n").unwrap(),
            // The record of a record.
            (Way::Twice, _) => {
                client.bare.write_all(b"\x08\x55\x53\x68\x65\x6c\x6c\x6f\x0a").unwrap();
            }
            _ => client.bare.write_all(b"\x06\x3d\x30\x39\x39\x3a\x5f").unwrap(),
        }
        assert_eq!(read_to_end(&mut client), b"hello\n", "{way:?}");
        soon("a stop", move || stopping.join().unwrap()).unwrap();
        assert_eq!(ends.lock().unwrap()[0].reason, CloseReason::Stopped, "{way:?}");
    }
}

#[test]
fn what_is_cut_off_at_the_deadline_still_ends_in_order() {
    for way in WAYS {
        let served = serve(way, patient().drain(MOMENT), |request| {
            writeln!(request, "here")?;
            request.read_exact(&mut [0; 100])?;
            Ok(())
        });
        let mut client = served.client();
        read_word(&mut client);
        client.write_all(b"half").unwrap();
        let ends = stop(served);
        assert_eq!(read_to_end(&mut client), b"", "{way:?}");
        eventually("it ends", || !ends.lock().unwrap().is_empty());
        assert_eq!(ends.lock().unwrap()[0].reason, CloseReason::Forced, "{way:?}");
    }
}

#[test]
fn an_operator_ends_a_wait_in_order() {
    for way in WAYS {
        let served = serve(way, patient(), echo);
        let mut client = served.client();
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        wait_for(&served, Activity::Idle);
        assert!(served.server.context().close_live(served.live()));
        assert_eq!(read_to_end(&mut client), b"", "{way:?}");
        served.assert_ends_as(CloseReason::ClosedHere);
    }
}

#[test]
fn an_operator_ends_a_write_that_waits() {
    for way in WAYS {
        let served = serve(way, patient(), write_on);
        let client = served.client();
        let live = served.live();
        let context = served.server.context();
        let sent = || context.live().first().map_or(0, |live| live.bytes_out);
        // The handler fills all buffers, and then waits.
        eventually("it waits for room", || {
            let before = sent();
            std::thread::sleep(MOMENT / 2);
            before > 100_000 && sent() == before
        });
        assert!(context.close_live(live));
        served.assert_ends_as(CloseReason::ClosedHere);
        drop(client);
    }
}

#[test]
fn an_operator_ends_what_computes_at_its_next_read_or_write() {
    for way in WAYS {
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let (failed, fails) = channel();
        let failed = Mutex::new(failed);
        let served = serve(way, patient(), move |request| {
            writeln!(request, "here")?;
            let _ = hear(&released);
            let written = request.write_all(b"an answer\n").and_then(|()| request.flush());
            failed.lock().unwrap().send(written.is_err())?;
            Ok(())
        });
        let mut client = served.client();
        read_word(&mut client);
        assert!(served.server.context().close_live(served.live()));
        release.send(()).unwrap();
        assert!(fails.recv_timeout(SOON).unwrap(), "{way:?}");
        // A record that the wrapper has already made may still be sent before the connection ends: it cannot be taken back.
        let rest = read_to_end(&mut client);
        assert!(rest.is_empty() || (way != Way::Plain && rest == b"an answer\n"), "{way:?}");
        served.assert_ends_as(CloseReason::ClosedHere);
    }
}

#[test]
fn the_last_answer_lingers_for_a_peer_that_is_still_sending() {
    for way in WAYS {
        for _ in 0..5 {
            let (release, released) = channel::<()>();
            let released = Mutex::new(released);
            let served = serve(way, patient().linger(SOON), move |request| {
                let mut line = String::new();
                request.next_line(&mut line)?;
                let _ = hear(&released);
                Ok(writeln!(request, "{line}")?)
            });
            let mut client = served.client();
            client.write_all(b"hello\n").unwrap();
            client.write_all(&[b'x'; 200_000]).unwrap();
            release.send(()).unwrap();
            // A reset would have discarded these bytes.
            assert_eq!(read_to_end(&mut client), b"hello\n", "{way:?}");
        }
    }
}

#[test]
fn what_is_held_back_leaves_before_the_end_that_is_said() {
    for way in WAYS {
        let served = serve(way, patient(), |request| {
            request.set_wbufsize(10_000)?;
            writeln!(request, "held back")?;
            Err(HandlerError::from("it fails"))
        });
        assert_eq!(read_to_end(&mut served.client()), b"held back\n", "{way:?}");
        served.assert_ends_as(CloseReason::Failed);
    }
}

#[test]
fn a_line_that_is_too_long_says_so_through_a_wrapper() {
    for way in WAYS {
        let served = serve(way, patient().line_bytes(10), |request| {
            let mut line = String::new();
            let error = request.next_line(&mut line).map(|_| ()).unwrap_err();
            assert_eq!(LineTooLong::find(&error).map(LineTooLong::limit_bytes), Some(10));
            Ok(writeln!(request, "too long")?)
        });
        let mut client = served.client();
        client.write_all(&[b'x'; 20]).unwrap();
        assert_eq!(read_line(&mut client), "too long\n", "{way:?}");
    }
}

#[test]
fn a_write_that_stands_still_is_waited_for_once() {
    // A wrapper accepts bytes before it has sent them, and announces its end: each of these sends could wait for the limit
    // once more.
    let limit = 30 * MOMENT;
    let stand_still = |way| {
        let served = serve(way, patient().write(limit), |request| {
            request.set_wbufsize(100_000)?;
            write_on(request)
        });
        let _client = served.client();
        let context = served.server.context();
        eventually("it is full", || {
            let sent = || context.live().first().map_or(0, |live| live.bytes_out);
            let before = sent();
            std::thread::sleep(MOMENT / 2);
            before > 100_000 && sent() == before
        });
        let began = Instant::now();
        served.assert_ends_as(CloseReason::TimedOut);
        assert!(began.elapsed() < 2 * limit, "{way:?}: {:?}", began.elapsed());
    };
    std::thread::scope(|scope| {
        for way in WAYS {
            scope.spawn(move || stand_still(way));
        }
    });
}
