//! A server is left out of the room while another server has its name, and comes back when the name is its own again.

use super::members::Stopped;
use super::*;

// This takes some 25 s: a name is free only when its server has been silent for ten, and that happens twice.
#[test]
fn a_server_whose_name_was_taken_neither_writes_nor_shows_lines_until_it_has_it_again() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (old, at_old) = server(&redis, "one", &["--bus-wait", "2"]);
    let (_two, at_two) = server(&redis, "two", &[]);
    let mut alice = Member::join(at_old, "alice");
    let mut bob = Member::join(at_two, "bob");
    alice.sees("* bob@two has joined");
    // The old server is stopped for so long that a new server takes its name.
    let stopped = Stopped::now(&old);
    let (new, at_new) = server(&redis, "one", &[]);
    let mut carol = Member::join(at_new, "carol");
    bob.sees("* carol@one has joined");
    bob.say("for the new one");
    assert_eq!(carol.hears(), "bob@two: for the new one");
    drop(stopped);
    // The operator sees why; the members learn only that the other servers cannot be reached.
    loop {
        let line = old.line();
        assert!(!line.starts_with("bob@two: "), "{line}");
        if line.starts_with(LOST) {
            assert!(line.contains("another server there is called one; if it does not"), "{line}");
            break;
        }
    }
    alice.say("to nobody");
    let told = "* a line of yours may not have reached the other servers: \"to nobody\"";
    let mut lost = 0;
    loop {
        let line = alice.line();
        assert!(!line.starts_with("bob@two: ") && line != JOINED_TO_MEMBERS, "{line}");
        lost += u32::from(line == LOST_TO_MEMBERS);
        if line == told {
            break;
        }
    }
    assert_eq!(lost, 1);
    assert_eq!(alice.asks_who(), "* 2 here: alice, bob@two");
    assert!(alice.line().starts_with("* the other servers have not been reached for "));
    bob.say("not for the old one yet");
    assert_eq!(carol.hears(), "bob@two: not for the old one yet");
    bob.say("@alice@one are you there");
    bob.sees(
        "* nobody there is called alice@one: this line was not sent: \"@alice@one are you there\"",
    );
    // The new server is killed, and the name is free some time later.
    new.send_signal(libc::SIGKILL);
    new.end();
    sees_beginning(&old, JOINED);
    // Like a server that was cut off, the old server gets the lines that were said while it was left out.
    assert_eq!(alice.hears(), "bob@two: for the new one");
    assert_eq!(alice.hears(), "bob@two: not for the old one yet");
    alice.say("back again");
    assert_eq!(bob.hears(), "alice@one: back again");
}
