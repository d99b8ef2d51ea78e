//! The encryption of a session: Noise, or none where the wire needs none.

use snow::{Builder, HandshakeState, TransportState};

use crate::protocol::{LONGEST_BODY, VERSION};
use crate::secret::Secret;

/// The pattern: both sides have the secret and no other keys, and each session has keys of its own. An attacker who learns
/// the secret later cannot read sessions that were recorded before.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// Bytes that encryption adds to a body: the tag that authenticates it.
const TAG: usize = 16;

/// Encrypts bodies and decrypts them.
pub enum Seal {
    /// Bodies stay as they are.
    Open,
    /// Bodies are encrypted with the keys of a session. Each side counts its messages, so that none can be left out,
    /// repeated or moved.
    Noise(Box<TransportState>),
}

impl Seal {
    /// Encrypts a body.
    pub fn close(&mut self, body: Vec<u8>) -> Result<Vec<u8>, snow::Error> {
        let Self::Noise(state) = self else { return Ok(body) };
        let mut sealed = vec![0; body.len() + TAG];
        let count = state.write_message(&body, &mut sealed)?;
        sealed.truncate(count);
        Ok(sealed)
    }

    /// Decrypts a body. Anything but the peer's next message is an error.
    pub fn open(&mut self, sealed: Vec<u8>) -> Result<Vec<u8>, snow::Error> {
        let Self::Noise(state) = self else { return Ok(sealed) };
        let mut body = vec![0; sealed.len()];
        let count = state.read_message(&sealed, &mut body)?;
        body.truncate(count);
        Ok(body)
    }
}

/// The client's side of a login.
pub struct Beginning(HandshakeState);

impl Beginning {
    /// The first message, and the state that reads its answer.
    pub fn new(secret: &Secret) -> Result<(Self, Vec<u8>), snow::Error> {
        let mut state = builder(secret)?.build_initiator()?;
        let message = written(&mut state)?;
        Ok((Self(state), message))
    }

    /// Reads the second message. An error means that the server does not have the secret.
    pub fn finish(mut self, message: &[u8]) -> Result<Seal, snow::Error> {
        self.0.read_message(message, &mut [0; LONGEST_BODY])?;
        Ok(Seal::Noise(Box::new(self.0.into_transport_mode()?)))
    }
}

/// The server's side: reads the first message and returns the second. An error means that the client does not have
/// the secret. Success does not yet prove that the client has it, because the message may be a recording. Only the
/// author of the message can encrypt the next one.
pub fn answer(secret: &Secret, message: &[u8]) -> Result<(Seal, Vec<u8>), snow::Error> {
    let mut state = builder(secret)?.build_responder()?;
    state.read_message(message, &mut [0; LONGEST_BODY])?;
    let answer = written(&mut state)?;
    Ok((Seal::Noise(Box::new(state.into_transport_mode()?)), answer))
}

fn builder(secret: &Secret) -> Result<Builder<'_>, snow::Error> {
    // The prologue is authenticated by both sides, so that an attacker cannot lower the version.
    const PROLOGUE: &[u8] = &[b's', b'h', b'e', b'l', b'l', VERSION];
    Builder::new(PATTERN.parse()?).psk(0, &secret.0)?.prologue(PROLOGUE)
}

fn written(state: &mut HandshakeState) -> Result<Vec<u8>, snow::Error> {
    let mut message = vec![0; LONGEST_BODY];
    let count = state.write_message(&[], &mut message)?;
    message.truncate(count);
    Ok(message)
}
