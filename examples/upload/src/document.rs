//! The wire of the tutorial's upload program: `post|name|size`, then the bytes, then the next file. There is no answer.
//!
//! Nothing ends the header. If the beginning of the file arrives in one piece with the header, the size ends before
//! the first byte that is not a digit. So a file that begins with a digit cannot be told from a larger size.
//! [`read_header`] says how such a piece is read.

/// The beginning of each header, and so of a connection.
pub const BEGIN: &[u8] = b"post|";

/// The most digits of a size, leading zeros included.
const DIGITS: usize = 20;

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: Vec<u8>,
    pub size: u64,
    /// The bytes of the header; the file begins after them.
    pub length: usize,
}

/// The beginning of a piece of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Header(Header),
    /// The beginning of a header.
    More,
    /// Neither a header nor the beginning of one.
    Nothing,
}

pub fn header(name: &str, size: u64) -> Vec<u8> {
    format!("post|{name}|{size}").into_bytes()
}

/// Whether the bytes after the first header of a connection are the target of an HTTP request. A web page chooses the
/// method that a browser sends first, and `post|name|9` is a valid method (RFC 9110, 5.6.2), but a blank and a path always
/// follow. A file that begins in this way, and arrives in one piece with its header, is refused as well.
pub fn is_of_a_browser(after_header: &[u8]) -> bool {
    let begins = |beginning: &[u8]| {
        let begun = after_header.get(..beginning.len());
        begun.is_some_and(|begun| begun.eq_ignore_ascii_case(beginning))
    };
    begins(b" /") || begins(b" http")
}

/// Reads a header at the beginning of the received bytes.
///
/// - If only digits follow the name, all of them are the size: the client sends the header by itself, and the tutorial's
///   server expects it so.
/// - If other bytes follow, the number may end in several places. A place is right if the piece then ends with the file, or
///   goes on with the next header. Of several such places the longest number counts.
/// - Otherwise the size ends before the first byte that is not a digit.
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
    // The number of tries is bounded, because otherwise the cost of a piece would grow with its digits.
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
