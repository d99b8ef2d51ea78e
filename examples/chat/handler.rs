//! A member's connection: what it sends becomes what the room does.

use std::io;
use std::time::{Duration, Instant};

use socketserver::{HandlerResult, Outbox, StreamRequest, StreamRequestHandler};

use super::protocol::{GOODBYE, Incoming, Message, SILENCE, TooLong};
use super::room::{Id, Room, Who};

/// How long a client may take to say its first word, and so to become a member: a person who thinks.
const FIRST_WORD: Duration = Duration::from_secs(600);

/// A member, from its first word to its end.
pub struct Chat {
    room: Room,
    pace: Pace,
    /// None before the first word.
    id: Option<Id>,
    /// The room knows that it knows of lines.
    told_lines: bool,
}

/// What ends a member's conversation.
enum End {
    /// It has said so.
    Quit,
    TooLong,
}

impl From<TooLong> for End {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl Chat {
    /// `lines_per_second`: what one member may say in the long run; zero is no limit.
    pub fn new(room: &Room, lines_per_second: u32) -> Self {
        Self { room: room.clone(), pace: Pace::new(lines_per_second), id: None, told_lines: false }
    }

    fn converse(&mut self, request: &mut StreamRequest, outbox: &Outbox) -> io::Result<End> {
        let mut incoming = Incoming::default();
        loop {
            let (arrived, ended) = match self.receive(request, &mut incoming)? {
                Some(arrived) => (arrived, false),
                None => (false, true),
            };
            match self.take_all(request, &mut incoming, arrived, ended, outbox) {
                Err(end) => return Ok(end),
                Ok(()) if ended => return Ok(End::Quit),
                Ok(()) => {}
            }
        }
    }

    /// Waits for more. True if something came, false if the silence has ended a message, none at the end.
    fn receive(
        &self,
        request: &mut StreamRequest,
        incoming: &mut Incoming,
    ) -> io::Result<Option<bool>> {
        let silence = incoming.awaits_silence();
        request.set_timeout(match self.id {
            _ if silence => Some(SILENCE),
            None => Some(FIRST_WORD),
            Some(_) => None,
        });
        // Half a line is nothing that a stopping server has to wait for.
        request.between_requests();
        match request.chunk() {
            Ok(Some(chunk)) => {
                incoming.push(&chunk);
                Ok(Some(true))
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && silence => Ok(Some(false)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && self.id.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn take_all(
        &mut self,
        request: &StreamRequest,
        incoming: &mut Incoming,
        arrived: bool,
        ended: bool,
        outbox: &Outbox,
    ) -> Result<(), End> {
        while let Some(text) = incoming.next_line()? {
            // What was pasted takes its time, which a stopping server does not have.
            if request.is_stopping() {
                return Err(End::Quit);
            }
            self.take(&text, true, outbox)?;
        }
        if ended || (!arrived && incoming.awaits_silence()) {
            let has_lines = incoming.has_lines();
            if let Some(text) = incoming.rest()? {
                self.take(&text, has_lines, outbox)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, text: &str, has_lines: bool, outbox: &Outbox) -> Result<(), End> {
        let mut message = Message::parse(text);
        // The document's client says this and goes, without a look at what it is answered.
        if !has_lines && text == "q" {
            return Err(End::Quit);
        }
        let id = match self.id {
            Some(id) => id,
            None => {
                let wish = match &message {
                    Message::Nick(name) => Some(name.as_str()),
                    _ => None,
                };
                let id = self.room.enter(outbox.clone(), has_lines, wish);
                if wish.is_some() {
                    message = Message::Nothing;
                }
                *self.id.insert(id)
            }
        };
        if has_lines && !std::mem::replace(&mut self.told_lines, true) {
            self.room.has_lines(id);
        }
        self.pace.keep();
        if !self.room.has(id) {
            // What it had sent before it was shown the door is nothing to wait for.
            return Err(End::Quit);
        }
        let member = Who::Member(id);
        match message {
            Message::Nothing => {}
            Message::Say(text) => self.room.say(member, &text),
            Message::Tell { to, text } => self.room.tell(member, &to, &text),
            Message::Nick(name) => self.room.rename(id, &name),
            Message::Who => self.room.who(member),
            Message::Quit => return Err(End::Quit),
            Message::Kick(_) => self.room.note(member, "only the operator may do that"),
            Message::Unknown(word) => self.room.note(member, &unknown(&word, "/nick NAME, /who, ")),
        }
        if !has_lines {
            self.room.answer(id);
        }
        Ok(())
    }
}

/// What is said to somebody who has typed a command that does not exist, or has asked for those that do.
pub fn unknown(word: &str, others: &str) -> String {
    let known = format!(
        "there are {others}@NAME TEXT and /quit; to say a line that begins with a slash, type two slashes"
    );
    if word == "/help" {
        return known;
    }
    format!("there is no {word}, or something is missing; {known}")
}

impl StreamRequestHandler for Chat {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let outbox = request.outbox()?;
        let end = self.converse(request, &outbox);
        if request.is_stopping() {
            // Out of the room first, so that no line of another comes behind the goodbye. Who does not take that is
            // closed all the same.
            if let Some(id) = self.id {
                self.room.leave(id, true);
            }
            let _ = outbox.send(format!("{GOODBYE}\n"));
        }
        if let (End::TooLong, id) = (end?, self.id) {
            match id {
                Some(id) => self.room.dismiss(id, &format!("had to leave: {TooLong}")),
                None => drop(outbox.send(format!("* {TooLong}; goodbye\n"))),
            }
        }
        Ok(())
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        if let Some(id) = self.id {
            self.room.leave(id, request.is_stopping());
        }
        Ok(())
    }
}

/// How fast a member may speak. Without it one who sends as fast as the machine allows would fill the
/// outboxes of others who read as fast as one can expect of them, and have them dropped.
struct Pace {
    /// None: as fast as it likes.
    interval: Option<Duration>,
    /// When all that was said would have been said at the allowed pace.
    due: Instant,
}

/// Lines that may come at once after a rest: something pasted. With lines of the greatest length it
/// still is less than an outbox holds.
const BURST: u32 = 20;

impl Pace {
    fn new(lines_per_second: u32) -> Self {
        let interval = (lines_per_second > 0).then(|| Duration::from_secs(1) / lines_per_second);
        Self { interval, due: Instant::now() }
    }

    /// Waits until the next line may be said.
    fn keep(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        self.due = self.due.max(now) + interval;
        let ahead = self.due.saturating_duration_since(now);
        socketserver::sleep(ahead.saturating_sub(interval * BURST));
    }
}
