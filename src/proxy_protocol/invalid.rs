//! [`InvalidHeader`]: why bytes are not a PROXY header.
//!
//! The kinds are for the operator of a proxy that is set up wrongly. The peer hears none of them: the connection
//! closes.

/// Why bytes are not a PROXY header. The connection that has brought them is closed: the specification forbids guesses at the
/// meaning of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHeader {
    /// The bytes do not begin as a header of either version. Probably their sender is not a proxy, or sends no header.
    #[error("it begins as no PROXY header does")]
    Unknown,
    /// Version 1: no end of the line within 107 bytes.
    #[error("its line is longer than 107 bytes")]
    LineTooLong,
    /// Version 1: the line is wrong.
    #[error("its line is wrong: {why}")]
    Line {
        /// The mistake in the line, in words.
        why: &'static str,
    },
    /// Version 2: a version or a command that does not exist, in the 13th byte.
    #[error("its 13th byte, {0:#04x}, is no version 2 with a command that exists")]
    Command(u8),
    /// Version 2: an address family or a protocol that does not exist, in the 14th byte.
    #[error("its 14th byte, {0:#04x}, is no address family that exists")]
    Family(u8),
    /// Version 2: it is longer than [`MAX_BYTES`](super::MAX_BYTES).
    #[error("its {0} bytes are more than the 4096 that are read")]
    TooLong(usize),
    /// Version 2: the length is less than its addresses take.
    #[error("it is shorter than its addresses")]
    TooShort,
    /// Version 2: a TLV ends beyond the header or beyond the TLV that contains it, or bytes are left.
    #[error("a TLV does not end where the header ends")]
    TlvLength,
    /// Version 2: the value of this type of TLV has the wrong form.
    #[error("its TLV {0:#04x} has the wrong form")]
    TlvValue(u8),
    /// Version 2: a TLV of this type comes twice, and may come only once.
    #[error("its TLV {0:#04x} comes twice")]
    TlvTwice(u8),
    /// Version 2: the checksum does not fit the bytes.
    #[error("its checksum is wrong")]
    Checksum,
}
