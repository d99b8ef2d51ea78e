//! Resuming: the server has a part of the file already, or all of it.
//!
//! The server offers a beginning (`Have`) and then its digest. The client digests the same bytes of its own file, and
//! sends `From` with the offset if the digests are equal, and `From` with 0 if not: the next offer then follows. The
//! last offer is the empty beginning, which is always accepted. Both sides send `Working` while they digest, so that the
//! other side does not give up.

use std::io::Write;

use socketserver::StreamRequest;

use super::{Trouble, Upload, next, unexpected, working};
use crate::digest;
use crate::partial::Partial;
use crate::protocol::{Code, Message, OFFERS, OLDEST, Put, Refusal};
use crate::store::storage;

impl Upload {
    /// Offers the whole file, if one of this name is stored. Returns the path of the stored file if the client's is equal.
    pub(super) fn offer_whole(
        &self,
        request: &mut StreamRequest,
        put: &Put,
    ) -> Result<Option<Vec<Vec<u8>>>, Trouble> {
        let Some((mut file, path)) = self.store.stored_before(put) else { return Ok(None) };
        request.write_all(&Message::Have { offset: put.size, whole: true }.encode())?;
        let hasher = digest::hash(&mut file, put.size, || working(request));
        let hasher = hasher.map_err(|error| storage("read", error))?;
        let is_same = self.agree(request, put.size, *hasher.finalize().as_bytes())?;
        Ok(is_same.then_some(path))
    }

    /// Continues a partial file, if the client asks for that and accepts one of the offers. Otherwise begins a new
    /// file.
    pub(super) fn begin(&self, request: &mut StreamRequest, put: &Put) -> Result<Partial, Trouble> {
        if !put.resume {
            return Ok(self.store.begin(put)?);
        }
        self.store.check_name(put)?;
        // A client of the oldest version accepts one offer or none, and then sends its file.
        let offers = if self.version > OLDEST { OFFERS } else { 1 };
        let mut offers_are_over = false;
        for left in self.store.left_of(put).iter().take(offers) {
            let Some(partial) = self.store.take(left, put)? else { continue };
            if let Some(partial) = self.offered(request, partial)? {
                return Ok(partial);
            }
            offers_are_over = self.version == OLDEST;
        }
        let partial = self.store.begin(put)?;
        if offers_are_over {
            return Ok(partial);
        }
        let nothing = || Refusal::new(Code::Protocol, "the offer of nothing has to be accepted");
        self.offered(request, partial)?.ok_or_else(|| nothing().into())
    }

    /// Offers a partial file. Returns it if the client accepts the offer; otherwise it stays in the folder.
    fn offered(
        &self,
        request: &mut StreamRequest,
        mut partial: Partial,
    ) -> Result<Option<Partial>, Trouble> {
        let result = self.offer(request, &mut partial);
        if let Ok(true) = result {
            return Ok(Some(partial));
        }
        self.store.leave(partial);
        result.map(|_| None)
    }

    fn offer(&self, request: &mut StreamRequest, partial: &mut Partial) -> Result<bool, Trouble> {
        let offset = partial.offered();
        request.write_all(&Message::Have { offset, whole: false }.encode())?;
        let digest = partial.hash(|| working(request));
        let digest = digest.map_err(|error| storage("read", error))?;
        let is_taken = self.agree(request, offset, digest)?;
        if is_taken {
            partial.accept().map_err(|error| storage("go on with", error))?;
        }
        Ok(is_taken)
    }

    /// Sends the digest of the offered bytes. Returns whether the client accepts them.
    fn agree(
        &self,
        request: &mut StreamRequest,
        offset: u64,
        digest: [u8; 32],
    ) -> Result<bool, Trouble> {
        request.write_all(&Message::Digest(digest).encode())?;
        // The client may send one `Working` for each step of its digest, and no more, or else it could go on for
        // ever.
        let mut steps = offset / digest::WORKING_BYTES + 1;
        loop {
            match next(request)? {
                Message::Working if steps > 0 => steps -= 1,
                Message::From(from) if from == offset => return Ok(true),
                Message::From(0) => return Ok(false),
                message => return Err(unexpected(&message)),
            }
        }
    }
}
