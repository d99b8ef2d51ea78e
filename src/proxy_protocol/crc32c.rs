//! [`crc32c`]: the checksum of a PROXY header.
//!
//! It is computed by a table, one byte at a time: it covers a few hundred bytes once in a connection, so neither larger
//! tables nor the processor's own instruction are worth their code.

/// Returns the CRC-32 of the parts, one after the other, with Castagnoli's polynomial (RFC 3720, appendix B.4), as in iSCSI
/// and SCTP.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut state = !0;
    for byte in parts.iter().copied().flatten() {
        let index = (state ^ u32::from(*byte)) & 0xff;
        state = (state >> 8) ^ TABLE[index as usize];
    }
    !state
}

/// The polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The remainders of all bytes.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut remainder, mut bit) = (byte as u32, 0);
        while bit < 8 {
            let odd = remainder & 1 == 1;
            remainder = (remainder >> 1) ^ if odd { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3720, and the usual check value: the sum of `123456789`.
    #[test]
    fn the_sums_are_those_of_the_standard() {
        let sum = |bytes: &[u8]| crc32c(&[bytes]);
        assert_eq!(sum(b"123456789"), 0xe306_9283);
        assert_eq!(sum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(sum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&[b"1234", b"56789"]), sum(b"123456789"));
    }
}
