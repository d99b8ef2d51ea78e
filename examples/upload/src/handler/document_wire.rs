//! The wire of the tutorial's upload program: a header and the bytes, without an answer. See `document` for its headers.

use std::io::{self, BufRead};

use common::{FirstWord, say};
use socketserver::StreamRequest;

use super::{Trouble, Upload};
use crate::document::{Found, is_of_a_browser, read_header};
use crate::pace::Pace;
use crate::protocol::{DATA_BYTES, Put, shown};

impl Upload {
    /// Receives files, one after the other, without an answer. A refused file ends the connection: such a client
    /// understands nothing else.
    pub(super) fn serve_document(&mut self, request: &mut StreamRequest) -> io::Result<()> {
        let peer = request.client_address();
        let mut is_first = true;
        while let Some(put) = read_document_header(request, std::mem::take(&mut is_first))? {
            FirstWord::heard(request);
            match self.receive_document(request, &put) {
                Ok(path) => say(&format!("{peer} stored {} ({} bytes)", shown(&path), put.size)),
                Err(Trouble::Refused(refusal)) => {
                    say(&format!("{peer} was refused {}: {refusal}", shown(&put.path)));
                    return Ok(());
                }
                Err(Trouble::Withdrawn) => return Ok(()),
                Err(Trouble::Lost(error)) => {
                    say(&format!("{peer} broke off {}: {error}", shown(&put.path)));
                    return Err(error);
                }
            }
            request.between_requests();
        }
        Ok(())
    }

    fn receive_document(
        &mut self,
        request: &mut StreamRequest,
        put: &Put,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        self.store.check(put)?;
        let mut partial = self.store.begin(put)?;
        let mut pace = Pace::new(self.idle);
        while partial.len() < put.size {
            let left = usize::try_from(put.size - partial.len()).unwrap_or(usize::MAX);
            let length = left.min(DATA_BYTES);
            if let Err(trouble) = self.receive_piece(request, length, &mut partial, &mut pace) {
                // On this wire nothing can be resumed.
                self.store.discard(partial);
                return Err(trouble);
            }
        }
        self.store.commit(&partial, put).map_err(|refusal| {
            self.store.discard(partial);
            refusal.into()
        })
    }
}

/// Reads the next header. Returns `None` at the end of the input.
fn read_document_header(request: &mut StreamRequest, is_first: bool) -> io::Result<Option<Put>> {
    let mut head = Vec::new();
    loop {
        let piece = request.fill_buf()?;
        if piece.is_empty() {
            return if head.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let (begun, received) = (head.len(), piece.len());
        head.extend_from_slice(piece);
        match read_header(&head) {
            Found::Header(header) if is_first && is_of_a_browser(&head[header.length..]) => {
                let peer = request.client_address();
                say(&format!("{peer} sent a request of HTTP, which is no file"));
                return Ok(None);
            }
            Found::Header(header) => {
                request.consume(header.length.saturating_sub(begun));
                let path = vec![header.name];
                let put = Put { path, size: header.size, fingerprint: [0; 32], resume: false };
                return Ok(Some(put));
            }
            Found::More => request.consume(received),
            Found::Nothing => {
                say(&format!("{} sent no header of a file", request.client_address()));
                return Ok(None);
            }
        }
    }
}
