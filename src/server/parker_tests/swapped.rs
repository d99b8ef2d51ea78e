//! Requests that are swapped while a handler waits, used by another thread, and dropped after their server.

use std::mem::swap;
use std::net::Shutdown;

use super::*;
use crate::wait::{any, install};

/// The place where handlers leave their requests for others.
type Place = Arc<Mutex<Option<StreamRequest>>>;

/// A handler that takes the first line as its name, and answers each line with the name and the line. At the line "lend"
/// it leaves its request in the place, goes on with a kept one, waits, and then takes the request that is in the place by
/// now. At "swap" it exchanges its request with the one in the place.
fn named(
    place: &Place,
    kept: &Shared<StreamRequest>,
) -> impl Fn(&mut StreamRequest) -> HandlerResult + use<> {
    let (place, kept) = (Arc::clone(place), Arc::clone(kept));
    move |request| {
        let (mut name, mut line) = (String::new(), String::new());
        while let Some(text) = request.next_line(&mut line)?.map(str::to_owned) {
            match text.as_str() {
                "lend" => {
                    let spare = kept.lock().unwrap().pop().ok_or("no request was kept")?;
                    *place.lock().unwrap() = Some(std::mem::replace(request, spare));
                    any(&[], None)?;
                    let mut others = place.lock().unwrap().take().ok_or("the place is empty")?;
                    swap(request, &mut others);
                    kept.lock().unwrap().push(others);
                }
                "swap" => {
                    let mut place = place.lock().unwrap();
                    swap(request, place.as_mut().ok_or("the place is empty")?);
                }
                "panic" => resume_unwind(Box::new("the handler has panicked")),
                _ if name.is_empty() => name = text.clone(),
                _ => {}
            }
            writeln!(request, "{name}: {text}")?;
        }
        Ok(())
    }
}

/// Two handlers swap their requests; the second one begins while the first one waits. Each ends with the other's request,
/// by a return or by a panic.
#[test]
fn requests_are_swapped_while_a_handler_waits() {
    for (last_of_b, last_of_a) in
        [("bye", "bye"), ("panic", "bye"), ("bye", "panic"), ("panic", "panic")]
    {
        let place = Place::default();
        let kept = Shared::default();
        let fixture = Fixture::with_kept(Arc::clone(&kept), named(&place, &kept));
        // The first request is kept at its end, and no other.
        let (client, job) = fixture.connect();
        client.shutdown(Shutdown::Write).unwrap();
        fixture.keeps.store(true, Ordering::SeqCst);
        job.run();
        fixture.keeps.store(false, Ordering::SeqCst);

        let ((of_a, a), (of_b, b)) = (fixture.connect(), fixture.connect());
        let sends_last = |client: &TcpStream, text: &'static str| {
            let mut client = client.try_clone().unwrap();
            step(move |_| {
                client.write_all(text.as_bytes())?;
                client.shutdown(Shutdown::Write)
            })
        };
        let parker = Script::new(vec![
            sends(&of_a, "a\nfirst\nlend\n"),
            // The handler of `a` waits. That of `b` begins and ends during this wait; from the swap on it has the request
            // of `a`.
            step(move |_| Ok(_ = b.run())),
            sends(&of_b, "b\nswap\n"),
            early(),
            sends(&of_a, "for b\n"),
            sends_last(&of_a, if last_of_b == "bye" { "bye\n" } else { "panic\n" }),
            // The handler of `a` goes on with the request of `b`.
            sends(&of_b, "for a\n"),
            sends_last(&of_b, if last_of_a == "bye" { "bye\n" } else { "panic\n" }),
        ]);
        let installed = install(Rc::clone(&parker) as Rc<dyn Parker>);
        a.run();
        drop(installed);
        assert!(parker.steps.borrow().is_empty());
        let bye =
            |last, name: &str| if last == "bye" { format!("{name}: bye\n") } else { String::new() };
        let (bye_of_b, bye_of_a) = (bye(last_of_b, "b"), bye(last_of_a, "a"));
        assert_eq!(read_to_end(&of_a), format!("a: a\na: first\nb: swap\nb: for b\n{bye_of_b}"));
        assert_eq!(read_to_end(&of_b), format!("b: b\na: lend\na: for a\n{bye_of_a}"));
        let failures = fixture.failures();
        let panics = [last_of_a, last_of_b].iter().filter(|last| **last == "panic").count();
        assert_eq!(failures.len(), panics, "{failures:?}");
        assert!(failures.iter().all(|failure| failure.contains("has panicked")), "{failures:?}");
    }
}

#[test]
fn a_kept_request_is_used_by_another_thread_and_outlives_its_server() {
    let kept = Shared::default();
    let fixture = Fixture::with_kept(Arc::clone(&kept), |request| {
        let mut line = String::new();
        let count = request.next_line(&mut line)?.map_or(0, str::len);
        Ok(writeln!(request, "{count}")?)
    });
    fixture.keeps.store(true, Ordering::SeqCst);
    let (client, job) = fixture.connect();
    let _installed = install(Script::new(vec![early(), sends(&client, "one\nhalf of a li")]));
    job.run();
    // The first half of the second line is in the request's buffer.
    let mut request = kept.lock().unwrap().pop().unwrap();
    (&client).write_all(b"ne\n").unwrap();
    let used = thread::spawn(move || {
        let _installed = install(Script::new(vec![early()]));
        let mut line = String::new();
        let text = request.next_line(&mut line).unwrap().unwrap().to_owned();
        writeln!(request, "{text}").unwrap();
        (request, text)
    });
    let (mut request, text) = used.join().unwrap();
    assert_eq!(text, "half of a line");
    drop(fixture);
    assert!(request.write_all(b"after the server\n").is_ok());
    thread::spawn(move || drop(request)).join().unwrap();
    assert_eq!(read_to_end(&client), "3\nhalf of a line\nafter the server\n");
}
