//! The document's wire: `post|name|size`, then so many bytes, then the next file. There is no answer.
//!
//! Nothing ends the header. Where the beginning of the file arrives in one piece with it, the size ends
//! before the first byte that is no digit; and a file that begins with a digit cannot be told from a larger
//! size. [`read_header`] says how that is read.

/// How a connection of the document's client begins, and with it every file.
pub const BEGIN: &[u8] = b"post|";

/// Digits of a size at most, however many zeros it begins with.
const DIGITS: usize = 20;

/// What comes before a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: Vec<u8>,
    pub size: u64,
    /// How many bytes the header has; the file begins after them.
    pub length: usize,
}

/// What a piece of input begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Header(Header),
    /// The beginning of a header.
    More,
    /// No header, and nothing that could become one.
    Nothing,
}

pub fn header(name: &str, size: u64) -> Vec<u8> {
    format!("post|{name}|{size}").into_bytes()
}

/// Whether what follows the first header of a connection is the target of a request of HTTP. A page of the web chooses
/// the method that its reader's browser begins with, and `post|name|9` can be one (RFC 9110, 5.6.2); it cannot choose that
/// a blank and a path follow. A file that begins so, and comes in one piece with its header, is lost to this.
pub fn is_of_a_browser(after_header: &[u8]) -> bool {
    let begins = |beginning: &[u8]| {
        let begun = after_header.get(..beginning.len());
        begun.is_some_and(|begun| begun.eq_ignore_ascii_case(beginning))
    };
    begins(b" /") || begins(b" http")
}

/// Reads a header at the beginning of what has been received.
///
/// - Where nothing but digits follows the name, all of them are the size: the client sends the header by
///   itself, and the document's server takes what it receives first for a header alone.
/// - Where something else follows, the number may end in several places. One after which the piece ends with
///   the file, or goes on with the next header, is right; of several, the longest number.
/// - Else the size ends before the first byte that is no digit.
pub fn read_header(piece: &[u8]) -> Found {
    let begin = piece.len().min(BEGIN.len());
    if piece[..begin] != BEGIN[..begin] {
        return Found::Nothing;
    }
    let rest = &piece[begin..];
    let Some(bar) = rest.iter().take(256).position(|byte| *byte == b'|') else {
        return if rest.len() > 255 { Found::Nothing } else { Found::More };
    };
    let numbers = &rest[bar + 1..];
    let digits = numbers.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return if numbers.is_empty() { Found::More } else { Found::Nothing };
    }
    let size = |digits: usize| {
        let text = std::str::from_utf8(&numbers[..digits]).unwrap_or_default();
        text.parse::<u64>().ok()
    };
    let fits = |digits: &usize| {
        let size = size(*digits).and_then(|size| usize::try_from(size).ok());
        let after = size.and_then(|size| numbers[*digits..].get(size..));
        after.is_some_and(|after| {
            let next = after.len().min(BEGIN.len());
            after[..next] == BEGIN[..next]
        })
    };
    let alone = digits == numbers.len();
    // There may be more in one piece, and each reading costs as much as it has digits.
    let exact = if alone { None } else { (1..=digits.min(DIGITS)).rev().find(fits) };
    let digits = exact.unwrap_or(digits);
    if digits > DIGITS {
        return Found::Nothing;
    }
    match size(digits) {
        Some(size) => {
            let (name, length) = (rest[..bar].to_vec(), begin + bar + 1 + digits);
            Found::Header(Header { name, size, length })
        }
        None => Found::Nothing,
    }
}
