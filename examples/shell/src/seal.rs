//! What keeps a session to itself: a session of Noise, or nothing where the wire needs none.

use snow::{Builder, HandshakeState, TransportState};

use crate::protocol::{LONGEST_BODY, VERSION};
use crate::secret::Secret;

/// The pattern: both sides have the secret and no other keys; each session has keys of its own, so that who
/// learns the secret later cannot read what was recorded before.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// What encryption adds to a body: the tag by which a change is seen.
const TAG: usize = 16;

/// Encrypts bodies and decrypts them.
pub enum Seal {
    /// They stay as they are.
    Open,
    /// By the keys of a session. Each side counts its messages, so that none can be left out, repeated or
    /// moved.
    Noise(Box<TransportState>),
}

impl Seal {
    /// The body as it goes over the wire.
    pub fn close(&mut self, body: Vec<u8>) -> Result<Vec<u8>, snow::Error> {
        let Self::Noise(state) = self else { return Ok(body) };
        let mut sealed = vec![0; body.len() + TAG];
        let count = state.write_message(&body, &mut sealed)?;
        sealed.truncate(count);
        Ok(sealed)
    }

    /// The body as it was. Anything that was not sealed by the peer as its next message is an error.
    pub fn open(&mut self, sealed: Vec<u8>) -> Result<Vec<u8>, snow::Error> {
        let Self::Noise(state) = self else { return Ok(sealed) };
        let mut body = vec![0; sealed.len()];
        let count = state.read_message(&sealed, &mut body)?;
        body.truncate(count);
        Ok(body)
    }
}

/// A session that begins: the client's side.
pub struct Beginning(HandshakeState);

impl Beginning {
    /// The first message, and what understands its answer.
    pub fn new(secret: &Secret) -> Result<(Self, Vec<u8>), snow::Error> {
        let mut state = builder(secret)?.build_initiator()?;
        let message = written(&mut state)?;
        Ok((Self(state), message))
    }

    /// Takes the second message. An error: the other side does not have the secret.
    pub fn finish(mut self, message: &[u8]) -> Result<Seal, snow::Error> {
        self.0.read_message(message, &mut [0; LONGEST_BODY])?;
        Ok(Seal::Noise(Box::new(self.0.into_transport_mode()?)))
    }
}

/// The server's side: takes the first message and gives the second. An error: the other side does not have
/// the secret. That there is none does not show that it has: the message may be a recording. Only who has made
/// it can seal the next one.
pub fn answer(secret: &Secret, message: &[u8]) -> Result<(Seal, Vec<u8>), snow::Error> {
    let mut state = builder(secret)?.build_responder()?;
    state.read_message(message, &mut [0; LONGEST_BODY])?;
    let answer = written(&mut state)?;
    Ok((Seal::Noise(Box::new(state.into_transport_mode()?)), answer))
}

fn builder(secret: &Secret) -> Result<Builder<'_>, snow::Error> {
    // The prologue is part of what both sides sign: who turns the version back is found out.
    const PROLOGUE: &[u8] = &[b's', b'h', b'e', b'l', b'l', VERSION];
    Builder::new(PATTERN.parse()?).psk(0, &secret.0)?.prologue(PROLOGUE)
}

fn written(state: &mut HandshakeState) -> Result<Vec<u8>, snow::Error> {
    let mut message = vec![0; LONGEST_BODY];
    let count = state.write_message(&[], &mut message)?;
    message.truncate(count);
    Ok(message)
}
