//! Where the length ends and the output begins, in an answer of the document's wire.

/// What can be said of the bytes of an answer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// More has to come, whatever the length is.
    Incomplete,
    /// The output begins here, if nothing more comes. More might: the digits could be those of a longer one.
    Perhaps(usize),
    /// The output begins here, and is whole.
    Whole(usize),
    /// It is no answer.
    Wrong,
}

/// Holds the bytes of an answer against each length that they may begin with. Two lengths of different numbers
/// of digits never fit the same bytes, so that the whole answer leaves no doubt; only whether it is whole
/// may be one.
pub fn read_answer(bytes: &[u8]) -> Reading {
    // No length that this machine could hold has more.
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
