//! A member's connection: its messages become calls of the room.

use std::io;
use std::time::{Duration, Instant};

use socketserver::{HandlerResult, Outbox, StreamRequest, StreamRequestHandler};

use super::hall::{Hall, Number, Turn};
use super::protocol::{GOODBYE, Incoming, Message, SILENCE, TooLong};
use super::room::{Id, Room, Who};

/// A connection, which is a member from its first word on.
pub struct Chat {
    room: Room,
    hall: Hall,
    /// How long the client may take for its first word, which a person types.
    patience: Duration,
    pace: Pace,
    place: Place,
    /// Whether the room has been told that this client sends newlines.
    told_lines: bool,
    /// For a client that sends no newlines (`protocol.rs`) and waits for an answer: the moment at which it gets one even
    /// if nobody has said anything.
    late: Option<Instant>,
}

/// Where a client is.
#[derive(Clone, Copy)]
enum Place {
    Outside,
    /// In the hall, where it may be silent until this moment.
    Hall(Number, Instant),
    Room(Id),
}

/// Why a member leaves.
enum End {
    /// It has said that it leaves, or was kicked, or the server stops.
    Quit,
    /// It was silent for too long.
    Silent,
    /// It was ended in the hall, or ended its own output there, before its turn to join.
    TooMany,
    TooLong,
}

impl From<TooLong> for End {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// The result of a wait for input.
enum Received {
    Bytes,
    /// Silence, which ends a message without a newline.
    Silence,
    End,
}

impl Chat {
    /// `patience` bounds the wait for the first word. `lines_per_second` bounds the lines in the long run; zero is no
    /// bound.
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

    /// Waits for input. Returns `None` if the time for the first word is over.
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
            // A stopping server need not wait for the rest of a line.
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
            // The pace delays pasted lines, and a stopping server does not wait for them.
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

    /// Waits until the client may join. Returns false if the server ends the connection before that, or if the
    /// client ends its own output.
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
                socketserver::park::sleep(time);
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
        // The tutorial's client sends this and leaves without reading an answer.
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
            // Lines that the member had sent before it was kicked are ignored.
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

    /// Leaves the hall or the room. With `quietly` this is not announced.
    fn leave(&mut self, quietly: bool) {
        match std::mem::replace(&mut self.place, Place::Outside) {
            Place::Outside => {}
            Place::Hall(number, _) => self.hall.leave(number),
            Place::Room(id) => self.room.leave(id, quietly),
        }
    }
}

/// The answer to an unknown command, and to `/help`.
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
        // A longer time is cut to a day: the clock may not be able to represent it.
        const DAY: Duration = Duration::from_secs(24 * 3600);
        self.place = Place::Hall(number, Instant::now() + self.patience.min(DAY));
        let end = self.converse(request, &outbox);
        if request.is_stopping() {
            // The member leaves the room first, so that no line follows the goodbye. The connection ends even if the
            // client does not read the goodbye.
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
        // The send fails if the client is gone.
        let _ = outbox.send(format!("* {told}; goodbye\n"));
        Ok(())
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.leave(request.is_stopping());
        Ok(())
    }
}

/// How fast a member may speak. Without a bound one fast member would fill the outboxes of the others. The others would
/// be dropped although they read as fast as their networks allow.
struct Pace {
    /// `None` for no limit.
    interval: Option<Duration>,
    /// The moment at which all lines so far would have been said at the allowed pace.
    due: Instant,
}

/// How many lines may arrive at once after a pause, for pasted text. An outbox has room for that many of the longest lines.
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
        socketserver::park::sleep(ahead.saturating_sub(interval * BURST));
    }
}
