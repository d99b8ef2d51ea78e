//! The server's end of a session: messages out of bytes, and bytes out of messages.

use std::io::Write;

use socketserver::{HandlerError, StreamRequest};

use crate::protocol::{Decoder, LONGEST_LOGIN, Message, frame};
use crate::seal::Seal;

/// The codec between messages and bytes.
pub struct Link {
    decoder: Decoder,
    seal: Seal,
}

impl Link {
    /// Makes the link of a login, which is not encrypted and takes only short messages.
    pub fn new() -> Self {
        Self { decoder: Decoder::new(LONGEST_LOGIN), seal: Seal::Open }
    }

    /// From here on messages may be this long.
    pub fn set_limit(&mut self, limit: usize) {
        self.decoder.set_limit(limit);
    }

    /// From here on all messages are encrypted.
    pub fn set_seal(&mut self, seal: Seal) {
        self.seal = seal;
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// Whether no byte of the next message has arrived.
    pub fn is_between_messages(&self) -> bool {
        self.decoder.is_empty()
    }

    /// The next message, if it is complete.
    ///
    /// # Errors
    ///
    /// If the bytes are invalid, or were not encrypted by the peer as its next message.
    pub fn next_message(&mut self) -> Result<Option<Message>, HandlerError> {
        let Some(body) = self.decoder.next_body()? else { return Ok(None) };
        Ok(Some(Message::from_body(&self.seal.open(body)?)?))
    }

    /// Encodes a message. The bytes have to be sent in the order of the calls.
    pub fn bytes_of(&mut self, message: &Message) -> Result<Vec<u8>, HandlerError> {
        Ok(frame(&self.seal.close(message.body())?))
    }

    /// Sends a message.
    pub fn send(
        &mut self,
        request: &mut StreamRequest,
        message: &Message,
    ) -> Result<(), HandlerError> {
        let bytes = self.bytes_of(message)?;
        Ok(request.write_all(&bytes)?)
    }
}
