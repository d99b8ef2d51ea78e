//! The operator, at the server's own terminal or at the other end of a pipe.

use std::io;
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;

use super::hall::Hall;
use super::handler::unknown;
use super::protocol::{LINE_BYTES, Message, clean};
use super::room::{Room, Who};
use super::screen::Screen;
use super::terminal::{Input, Typed, UNREADABLE};

/// Obeys the operator, in a thread of its own, until the input ends.
pub fn start(
    room: Room,
    hall: Hall,
    screen: Screen,
    mut input: Input,
) -> io::Result<JoinHandle<()>> {
    let work = move || {
        loop {
            match input.next(LINE_BYTES) {
                Typed::Line(text) => obey(&room, &hall, &screen, &clean(text.as_bytes())),
                Typed::Unreadable => screen.show(&format!("* {UNREADABLE}\n")),
                // Ctrl-C does the same as a SIGINT from outside: a second one ends the server at once.
                Typed::Interrupt => return stop(SIGINT),
                Typed::End => screen.show("* /quit ends the server\n"),
                // A server without an operator goes on serving.
                Typed::Closed => return,
            }
        }
    };
    thread::Builder::new().name("operator".into()).spawn(work)
}

fn obey(room: &Room, hall: &Hall, screen: &Screen, text: &str) {
    match Message::parse(text) {
        Message::Nothing => {}
        Message::Say(text) => room.say(Who::Operator, &text),
        Message::Tell { to, text } => room.tell(Who::Operator, &to, &text),
        Message::Who => {
            room.who(Who::Operator);
            if let Some(silent) = hall.list() {
                screen.show(&format!("* {silent}\n"));
            }
        }
        // No name begins with `#`: it means connections without a name.
        Message::Kick(name) => match name.strip_prefix('#') {
            Some(which) => screen.show(&match hall.kick(which) {
                1 => "* 1 client that had not said a word was kicked\n".to_owned(),
                count => format!("* {count} clients that had not said a word were kicked\n"),
            }),
            None => room.kick(&name),
        },
        Message::Quit => stop(SIGTERM),
        Message::Nick(_) => screen.show("* the operator is always called that\n"),
        Message::Unknown(word) => {
            screen.show(&format!("* {}\n", unknown(&word, "/who, /kick NAME, ")));
        }
    }
}

/// Sends this process a signal, for which the server has a handler.
fn stop(signal: i32) {
    // The call fails only for a number that is not a signal.
    let _ = raise(signal);
}
