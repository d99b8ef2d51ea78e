//! The server's end of a session: messages out of bytes, and bytes out of messages.

use std::io::Write;

use socketserver::{HandlerError, StreamRequest};

use crate::protocol::{Decoder, LONGEST_LOGIN, Message, frame};
use crate::seal::Seal;

/// What stands between the messages and the connection.
pub struct Link {
    decoder: Decoder,
    seal: Seal,
}

impl Link {
    /// For a login: in the open, and with room for little.
    pub fn new() -> Self {
        Self { decoder: Decoder::new(LONGEST_LOGIN), seal: Seal::Open }
    }

    /// From here on messages may be so long.
    pub fn set_limit(&mut self, limit: usize) {
        self.decoder.set_limit(limit);
    }

    /// From here on everything is sealed.
    pub fn set_seal(&mut self, seal: Seal) {
        self.seal = seal;
    }

    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// Whether nothing of a message has come yet.
    pub fn is_between_messages(&self) -> bool {
        self.decoder.is_empty()
    }

    /// The next message, if it is whole.
    ///
    /// # Errors
    ///
    /// If what has come is none, or was not sealed by the peer as its next one.
    pub fn next_message(&mut self) -> Result<Option<Message>, HandlerError> {
        let Some(body) = self.decoder.next_body()? else { return Ok(None) };
        Ok(Some(Message::from_body(&self.seal.open(body)?)?))
    }

    /// The bytes of a message, which have to be sent in this order.
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
