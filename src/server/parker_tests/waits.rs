//! Waits that end early, late, by another thread, by an error or by a panic; and closures that a parker runs when it likes.

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::request::TimedOut;
use crate::wait::{install, join};

#[test]
fn waits_that_end_early_or_late_or_by_another_thread_cost_a_look() {
    let fixture = Fixture::new(lengths);
    for _ in 0..2 {
        let (client, job) = fixture.connect();
        let by_another_thread = client.try_clone().unwrap();
        let parker = Script::new(vec![
            early(),
            early(),
            sends(&client, "on"),
            early(),
            sends(&client, "e\ntwo"),
            // The rest comes from another thread, which wakes this one.
            step(move |_| {
                let parked = thread::current();
                thread::spawn(move || {
                    (&by_another_thread).write_all(b"\n").unwrap();
                    by_another_thread.shutdown(Shutdown::Write).unwrap();
                    parked.unpark();
                });
                thread::park();
                Ok(())
            }),
        ]);
        let installed = install(Rc::clone(&parker) as Rc<dyn Parker>);
        job.run();
        drop(installed);
        assert!(parker.waits.get() >= 5);
        assert_eq!(read_to_end(&client), "3\n3\n");
    }
    assert!(fixture.failures().is_empty());
}

#[test]
fn an_error_and_a_panic_of_a_parker_end_one_request() {
    let fixture = Fixture::new(lengths);
    let fails = step(|_| Err(io::Error::other("no room to wait")));
    let panics = step(|_| resume_unwind(Box::new("the parker has panicked")));
    for (last, told) in [(fails, "no room to wait"), (panics, "the parker has panicked")] {
        let (client, job) = fixture.connect();
        let installed = install(Script::new(vec![early(), sends(&client, "one\ntw"), last]));
        job.run();
        drop(installed);
        let failures = fixture.failures();
        assert!(failures.len() == 1 && failures[0].contains(told), "{failures:?}");
        assert_eq!(read_to_end(&client), "3\n");
    }
    // Nothing of the two requests that have failed is left on this thread: a third one is served.
    let (client, job) = fixture.connect();
    let _installed = install(Script::new(vec![sends(&client, "three\n")]));
    client.shutdown(Shutdown::Read).unwrap();
    let ends = client.try_clone().unwrap();
    thread::spawn(move || ends.shutdown(Shutdown::Write).unwrap());
    job.run();
}

#[test]
fn a_deadline_ends_a_wait_that_comes_back_late() {
    let fixture = Fixture::new(|request| {
        request.set_timeout(Some(Duration::from_millis(5)));
        let error = request.read(&mut [0]).expect_err("nothing comes");
        assert!(TimedOut::find(&error).is_some(), "{error}");
        Ok(writeln!(request, "late")?)
    });
    let (client, job) = fixture.connect();
    let late = step(|_| Ok(thread::sleep(Duration::from_millis(20))));
    let _installed = install(Script::new(vec![early(), late]));
    job.run();
    assert_eq!((read_to_end(&client).as_str(), fixture.failures().len()), ("late\n", 0));
}

/// Both closures borrow from the stack. So `join` returns only when neither can run any more, whatever the parker does with
/// the closure that it gets.
#[test]
fn what_is_lent_to_a_parker_ends_before_join_does() {
    let runs = || step(|script| Ok(script.spawned.take().into_iter().for_each(|run| run())));
    let drops = || step(|script| Ok(drop(script.spawned.take())));
    for (spawns, steps, expected) in [
        (Spawns::Never, vec![], Ok(true)),
        (Spawns::AtOnce, vec![], Ok(true)),
        (Spawns::Later, vec![early(), runs()], Ok(true)),
        (Spawns::Later, vec![early(), drops()], Ok(false)),
        (Spawns::Drops, vec![], Ok(false)),
        (Spawns::Panics, vec![early(), runs()], Err("spawn")),
        (Spawns::Panics, vec![drops()], Err("spawn")),
    ] {
        let _installed = install(Script::spawning(spawns, steps));
        let (mut of_a, mut of_b) = (String::new(), String::from("b"));
        let joined = catch_unwind(AssertUnwindSafe(|| {
            join(|| of_a.push_str("has run"), || of_b.push_str(" has run"))
        }));
        match joined {
            Ok(joined) => assert_eq!(Ok(joined.is_ok()), expected),
            Err(payload) => assert_eq!(Err(*payload.downcast_ref().unwrap()), expected),
        }
        assert!(["b", "b has run"].contains(&of_b.as_str()), "{of_b}");
    }
}

#[test]
fn the_halves_of_a_request_wait_beside_each_other() {
    let fixture = Fixture::new(|request| {
        let (mut input, mut output) = request.split()?;
        let mut text = String::new();
        let (read, written) =
            join(|| output.write_all(b"go on\n"), || input.read_to_string(&mut text))?;
        read?;
        written?;
        Ok(write!(request, "{text}")?)
    });
    let all = [Spawns::AtOnce, Spawns::Later, Spawns::Never];
    // With `Never`, `join` uses a plain thread, which waits in a system call. Under Miri such a wait may miss the end: see
    // `read_to_end`.
    for spawns in all.into_iter().take(if cfg!(miri) { 2 } else { 3 }) {
        let (client, job) = fixture.connect();
        (&client).write_all(b"some bytes").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let runs = step(|script| Ok(script.spawned.take().into_iter().for_each(|run| run())));
        let _installed = install(Script::spawning(spawns, vec![runs]));
        job.run();
        assert_eq!(read_to_end(&client), "go on\nsome bytes");
    }
    assert!(fixture.failures().is_empty());
}
