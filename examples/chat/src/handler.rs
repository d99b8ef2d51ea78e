//! A member's connection: what it sends becomes what the room does.

use std::io;
use std::time::{Duration, Instant};

use socketserver::{HandlerResult, Outbox, StreamRequest, StreamRequestHandler};

use super::hall::{Hall, Number, Turn};
use super::protocol::{GOODBYE, Incoming, Message, SILENCE, TooLong};
use super::room::{Id, Room, Who};

/// A connection, and from its first word on a member.
pub struct Chat {
    room: Room,
    hall: Hall,
    /// How long it may take for its first word: a person who thinks.
    patience: Duration,
    pace: Pace,
    place: Place,
    /// The room knows that it knows of lines.
    told_lines: bool,
    /// For a client that knows of no lines and listens: when it has listened for long enough.
    late: Option<Instant>,
}

/// Where a client is.
#[derive(Clone, Copy)]
enum Place {
    Outside,
    /// Silent, until then at most.
    Hall(Number, Instant),
    Room(Id),
}

/// What ends a member's conversation.
enum End {
    /// It has said so.
    Quit,
    /// It has said nothing for too long.
    Silent,
    /// It was gone before it was its turn to be let in.
    TooMany,
    TooLong,
}

impl From<TooLong> for End {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// What a wait for more has brought.
enum Received {
    Bytes,
    /// So much silence that a message without an end is over.
    Silence,
    End,
}

impl Chat {
    /// `patience`: for the first word. `lines_per_second`: what one member may say in the long run; zero is no limit.
    pub fn new(room: &Room, hall: &Hall, patience: Duration, lines_per_second: u32) -> Self {
        Self {
            room: room.clone(),
            hall: hall.clone(),
            patience,
            pace: Pace::new(lines_per_second),
            place: Place::Outside,
            told_lines: false,
            late: None,
        }
    }

    fn converse(&mut self, request: &mut StreamRequest, outbox: &Outbox) -> io::Result<End> {
        let mut incoming = Incoming::default();
        loop {
            let received = match self.receive(request, &mut incoming)? {
                Some(received) => received,
                None => return Ok(End::Silent),
            };
            let is_over = matches!(received, Received::End);
            match self.take_all(request, &mut incoming, &received, outbox)? {
                Err(end) => return Ok(end),
                Ok(()) if is_over => return Ok(End::Quit),
                Ok(()) => {}
            }
        }
    }

    /// Waits for more. None if it has been silent for too long without having said a word.
    fn receive(
        &mut self,
        request: &mut StreamRequest,
        incoming: &mut Incoming,
    ) -> io::Result<Option<Received>> {
        loop {
            let silence = incoming.awaits_silence().then(|| Instant::now() + SILENCE);
            let first_word = match self.place {
                Place::Hall(_, until) => Some(until),
                _ => None,
            };
            let next = [silence, first_word, self.late].into_iter().flatten().min();
            let left = next.map(|next| next.saturating_duration_since(Instant::now()));
            request.set_timeout(left);
            // Half a line is nothing that a stopping server has to wait for.
            request.between_requests();
            match request.chunk() {
                Ok(Some(chunk)) => {
                    incoming.push(&chunk);
                    return Ok(Some(Received::Bytes));
                }
                Ok(None) => return Ok(Some(Received::End)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut && next.is_some() => {}
                Err(error) => return Err(error),
            }
            if next == first_word {
                return Ok(None);
            }
            if next == silence {
                return Ok(Some(Received::Silence));
            }
            self.late = None;
            if let Place::Room(id) = self.place {
                self.room.answer_late(id);
            }
        }
    }

    fn take_all(
        &mut self,
        request: &mut StreamRequest,
        incoming: &mut Incoming,
        received: &Received,
        outbox: &Outbox,
    ) -> io::Result<Result<(), End>> {
        loop {
            let (text, has_lines) = match (incoming.next_line(), received) {
                (Err(TooLong), _) => return Ok(Err(End::TooLong)),
                (Ok(Some(text)), _) => (text, true),
                (Ok(None), Received::Bytes) => return Ok(Ok(())),
                (Ok(None), _) => match incoming.rest() {
                    Err(TooLong) => return Ok(Err(End::TooLong)),
                    Ok(None) => return Ok(Ok(())),
                    Ok(Some(text)) => (text, incoming.has_lines()),
                },
            };
            // What was pasted takes its time, which a stopping server does not have.
            if request.is_stopping() {
                return Ok(Err(End::Quit));
            }
            if let Place::Hall(number, _) = self.place {
                if !self.wait_for_turn(request, incoming, number)? {
                    return Ok(Err(End::TooMany));
                }
            }
            if let Err(end) = self.take(&text, has_lines, outbox) {
                return Ok(Err(end));
            }
        }
    }

    /// Waits until it may come in. False: it has left before that.
    fn wait_for_turn(
        &mut self,
        request: &mut StreamRequest,
        incoming: &mut Incoming,
        number: Number,
    ) -> io::Result<bool> {
        loop {
            let time = match self.hall.turn(number) {
                Turn::Now => return Ok(true),
                Turn::In(time) => time,
                Turn::Never => return Ok(false),
            };
            if incoming.is_full() {
                socketserver::sleep(time);
                continue;
            }
            request.set_timeout(Some(time));
            request.between_requests();
            match request.chunk() {
                Ok(Some(chunk)) => incoming.push(&chunk),
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, text: &str, has_lines: bool, outbox: &Outbox) -> Result<(), End> {
        let mut message = Message::parse(text);
        // The document's client says this and goes, without a look at what it is answered.
        if !has_lines && text == "q" {
            return Err(End::Quit);
        }
        let mut was_named = false;
        let id = if let Place::Room(id) = self.place {
            id
        } else {
            let wish = match &message {
                Message::Nick(name) => Some(name.as_str()),
                _ => None,
            };
            let id = self.room.enter(outbox.clone(), has_lines, wish);
            if wish.is_some() {
                was_named = true;
                message = Message::Nothing;
            }
            self.place = Place::Room(id);
            id
        };
        if has_lines && !std::mem::replace(&mut self.told_lines, true) {
            self.room.has_lines(id);
        }
        self.pace.keep();
        if !self.room.has(id) {
            // What it had sent before it was shown the door is nothing to wait for.
            return Err(End::Quit);
        }
        if !has_lines {
            self.late = self.room.listens(id);
            if was_named {
                self.room.answer_at_once(id);
            }
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
        Ok(())
    }

    /// Out of the hall or the room. `quietly`: there is nobody to tell.
    fn leave(&mut self, quietly: bool) {
        match std::mem::replace(&mut self.place, Place::Outside) {
            Place::Outside => {}
            Place::Hall(number, _) => self.hall.leave(number),
            Place::Room(id) => self.room.leave(id, quietly),
        }
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
        let number = self.hall.arrive(request.client_address(), outbox.clone());
        // A limit that the clock cannot count is none; a day is as good.
        const DAY: Duration = Duration::from_secs(24 * 3600);
        self.place = Place::Hall(number, Instant::now() + self.patience.min(DAY));
        let end = self.converse(request, &outbox);
        if request.is_stopping() {
            // Out of the room first, so that no line of another comes behind the goodbye. Who does not take that is
            // closed all the same.
            self.leave(true);
            let _ = outbox.send(format!("{GOODBYE}\n"));
        }
        let told = match (end?, self.place) {
            (End::TooLong, Place::Room(id)) => {
                self.room.dismiss(id, &format!("had to leave: {TooLong}"));
                return Ok(());
            }
            (End::Quit, _) => return Ok(()),
            (End::TooLong, _) => TooLong.to_string(),
            (End::Silent, _) => {
                format!("you have not said a word within {} s", self.patience.as_secs_f32())
            }
            (End::TooMany, _) => {
                "too many come in at once, and you had left before your turn".to_owned()
            }
        };
        // Its reader may be gone.
        let _ = outbox.send(format!("* {told}; goodbye\n"));
        Ok(())
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.leave(request.is_stopping());
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
