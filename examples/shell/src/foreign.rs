//! What arrives on the document's wire and is no command: the first words of other protocols.
//!
//! Any page of the web can have its reader's browser connect to a port of this machine, and choose most of what
//! is then sent: the address, the fields, the body, and of TLS the ticket. Without a login that would be commands of
//! the page's. The page cannot choose how it begins: a request of HTTP has a line of its own form, whatever its
//! method and its version are, and everything else that a browser can be made to send (TLS, TURN) is binary. So
//! there is no list of methods here. It is the form that is refused, and with it the whole of the send.

/// Longer than any path of Linux (`PATH_MAX`).
const LONGEST_PATH: usize = 4_096;

/// What these bytes are, if they are no command, as the end of the sentence "it sent ..".
pub fn kind_of(sent: &[u8]) -> Option<&'static str> {
    if sent.starts_with(b"\x16\x03") {
        return Some("a hello of TLS, which no user types");
    }
    if sent.iter().any(|byte| is_of_no_text(*byte)) {
        return Some("bytes that are no text, which no user types");
    }
    let sent = sent.trim_ascii_start();
    let end = sent.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let line = &sent[..end.unwrap_or(sent.len())];
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let [first, second, third] = [(); 3].map(|()| words.next().unwrap_or_default());
    let last = words.next_back().unwrap_or(third);
    if first.starts_with(b"SSH-") {
        return Some("a greeting of SSH, which no user types");
    }
    let is_http = [first, second, third].iter().any(|word| names_http(word))
        || (is_token(first) && starts_like(third, b"HTTP/"))
        || (is_token(first) && second.starts_with(b"/") && names_http(last))
        || is_preface(first, second);
    // Without a version it is the first HTTP's, which has only methods of capital letters. As a program's name
    // nobody writes those.
    let is_old_http = is_token(first) && is_of_capitals(first) && is_target(second);
    // A path that is longer than any path can be, and that nothing ends, is a target whose end is still to come.
    let is_cut = end.is_none()
        && third.is_empty()
        && second.starts_with(b"/")
        && second.len() > LONGEST_PATH;
    if is_http || is_old_http || is_cut {
        return Some("a request of HTTP, which no user types");
    }
    let is_like_http = is_token(first) && last == third && names_version(third);
    is_like_http.then_some("a request of a protocol like HTTP, which no user types")
}

/// What stands in no line that is typed: neither a character, nor a blank, nor what colours a terminal.
fn is_of_no_text(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t'..=b'\r' | 0x1b)
}

/// A token of RFC 9110, 5.6.2, as a method is.
fn is_token(word: &[u8]) -> bool {
    let is_of_a_token =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(is_of_a_token)
}

fn is_of_capitals(word: &[u8]) -> bool {
    word.iter().any(u8::is_ascii_uppercase) && !word.iter().any(u8::is_ascii_lowercase)
}

/// A path, or an address with a scheme.
fn is_target(word: &[u8]) -> bool {
    word.starts_with(b"/") || word.windows(3).any(|three| three == b"://")
}

/// `HTTP/1.1`, and whatever else may come to stand behind the slash.
fn names_http(word: &[u8]) -> bool {
    starts_like(word, b"HTTP/") && word.get(5).is_some_and(u8::is_ascii_digit)
}

/// How a connection of HTTP/2 begins, or the first word of that.
fn is_preface(first: &[u8], second: &[u8]) -> bool {
    first == b"PRI" && (second.is_empty() || second == b"*")
}

/// `RTSP/1.0`, `SIP/2.0`, `ICAP/1.0`.
fn names_version(word: &[u8]) -> bool {
    let Some(slash) = word.iter().position(|byte| *byte == b'/') else { return false };
    let (name, version) = (&word[..slash], &word[slash + 1..]);
    let is_version = matches!(version, [major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit());
    is_of_capitals(name) && is_version
}

fn starts_like(word: &[u8], beginning: &[u8]) -> bool {
    word.get(..beginning.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(beginning))
}
