//! The login. It is bounded in time, by `--first-word`, and in size.

use std::time::{Duration, Instant};

use socketserver::{HandlerError, StreamRequest};

use crate::link::Link;
use crate::penalty::Penalty;
use crate::protocol::{LONGEST_BODY, Message, Proof, VERSION};
use crate::seal;
use crate::secret::Secret;
use crate::settings::{Entry, Settings, log_refusal};

/// Logs a client in. Returns false if the client has left or is refused. A refusal is logged, and the client gets some of
/// the reasons.
///
/// # Errors
///
/// Errors of the connection, and invalid messages.
pub fn log_in(
    request: &mut StreamRequest,
    link: &mut Link,
    settings: &Settings,
) -> Result<bool, HandlerError> {
    let until = Instant::now() + settings.first_word;
    let result = steps(request, link, settings, until);
    request.set_timeout(None);
    match result {
        Ok(()) => {
            link.set_limit(LONGEST_BODY);
            return Ok(true);
        }
        Err(Stop::Gone) => {}
        Err(Stop::Refused(why)) => {
            log_refusal(request, &why);
            link.send(request, &Message::Refused(why))?;
        }
        Err(Stop::Failed(why, penalty)) => {
            log_refusal(request, why);
            penalty.give(request);
        }
        Err(Stop::Error(error)) => return Err(error),
    }
    Ok(false)
}

/// Why a login fails.
enum Stop<'a> {
    /// The client has left.
    Gone,
    /// The client has made a mistake, and gets the reason.
    Refused(String),
    /// A wrong proof: the client is told nothing, and gets the penalty.
    Failed(&'static str, &'a Penalty),
    Error(HandlerError),
}

impl From<HandlerError> for Stop<'_> {
    fn from(error: HandlerError) -> Self {
        Self::Error(error)
    }
}

fn steps<'a>(
    request: &mut StreamRequest,
    link: &mut Link,
    settings: &'a Settings,
    until: Instant,
) -> Result<(), Stop<'a>> {
    let (proof, noise) = match receive(request, link, until)? {
        Some(Message::Hello { version: VERSION, proof, noise }) => (proof, noise),
        Some(Message::Hello { version, .. }) => {
            return Err(Stop::Refused(format!(
                "this server speaks version {VERSION} of the wire, and not {version}"
            )));
        }
        Some(_) => return Err(Stop::Refused("a session begins with HELLO".into())),
        None => return Err(Stop::Gone),
    };
    let secret = way_in(request, settings, proof)?;
    let session = match secret {
        None => None,
        Some((secret, penalty)) => {
            let session = seal::answer(secret, &noise);
            Some(session.map_err(|_| Stop::Failed("its secret is not the server's", penalty))?)
        }
    };
    let (seal, noise) = session.map_or((None, Vec::new()), |(seal, noise)| (Some(seal), noise));
    link.send(request, &Message::Welcome { version: VERSION, noise })?;
    if let Some(seal) = seal {
        link.set_seal(seal);
    }
    match (receive(request, link, until), secret) {
        (Ok(Some(Message::Ready)), _) => Ok(()),
        (Ok(Some(_)), _) => Err(Stop::Refused("after the welcome comes READY".into())),
        (Ok(None), _) => Err(Stop::Gone),
        // The first message was valid, but its sender cannot continue: the message is a copy of another client's.
        (Err(error), Some((_, penalty))) if error.is::<snow::Error>() => {
            Err(Stop::Failed("its login is a recording of another", penalty))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// How this client has to prove itself: by the secret, or by nothing on the wire. Fails if it may not enter.
fn way_in<'a>(
    request: &StreamRequest,
    settings: &'a Settings,
    proof: Proof,
) -> Result<Option<(&'a Secret, &'a Penalty)>, Stop<'a>> {
    let refused = |why: &str| Err(Stop::Refused(why.to_owned()));
    if let (Entry::Anyone, Proof::Nothing) = (&settings.entry, proof) {
        return Ok(None);
    }
    if let Entry::Anyone = &settings.entry {
        return refused("this server takes no secret: connect with --no-auth");
    }
    if let Ok(peer) = request.peer_credentials() {
        let me = rustix::process::geteuid().as_raw();
        return match peer.uid {
            uid if uid == me || uid == 0 => Ok(None),
            uid => refused(&format!("this server is for user {me}, and not for user {uid}")),
        };
    }
    match (&settings.entry, proof) {
        (Entry::Proven(Some((secret, penalty))), Proof::Secret) => Ok(Some((secret, penalty))),
        _ => refused("this server wants to be shown the secret: connect without --no-auth"),
    }
}

/// Waits for the next message, at most until the end of the login's time.
fn receive(
    request: &mut StreamRequest,
    link: &mut Link,
    until: Instant,
) -> Result<Option<Message>, HandlerError> {
    loop {
        if let Some(message) = link.next_message()? {
            return Ok(Some(message));
        }
        let left = until.saturating_duration_since(Instant::now());
        request.set_timeout(Some(left.max(Duration::from_millis(1))));
        match request.chunk()? {
            Some(bytes) => link.push(&bytes),
            None => return Ok(None),
        }
    }
}
