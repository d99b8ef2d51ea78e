//! Finds where the length ends and the output begins in an answer on the tutorial's wire.

/// The state of an answer, judged by the bytes that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// More bytes are needed, whatever the length is.
    Incomplete,
    /// The output begins here, if no more bytes arrive. If more arrive, the digits may belong to a longer length.
    Perhaps(usize),
    /// The output begins here, and is complete.
    Whole(usize),
    /// The bytes are not an answer.
    Wrong,
}

/// Compares the bytes of an answer with each length that they may begin with. Two lengths with different numbers of
/// digits never fit the same bytes, so a complete answer is unambiguous. Only whether it is complete may be in doubt.
pub fn read_answer(bytes: &[u8]) -> Reading {
    // The longest length that fits into memory has this many digits.
    let digits = bytes.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
    let more_digits = digits == bytes.len();
    let mut fits = None;
    let mut longer = more_digits;
    let mut length = 0_usize;
    for (at, digit) in bytes[..digits].iter().enumerate() {
        length = length.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
        let whole = length.saturating_add(at + 1);
        if whole == bytes.len() {
            fits = Some(at + 1);
        }
        longer |= whole > bytes.len();
        // No other length begins with a zero.
        if length == 0 {
            longer = whole > bytes.len();
            break;
        }
    }
    match fits {
        Some(at) if longer => Reading::Perhaps(at),
        Some(at) => Reading::Whole(at),
        None if longer => Reading::Incomplete,
        None => Reading::Wrong,
    }
}
