//! Beginnings of other protocols, which are refused on the tutorial's wire.
//!
//! Any web page can make a browser connect to a port of this machine, and can choose most of the bytes that the
//! browser sends: the address, the fields, the body, and a session ticket of TLS. Without a login these would be the page's
//! commands. But the page cannot choose the beginning. An HTTP request begins with a line of its own form, for every
//! method and version, and all other protocols that a browser speaks (TLS, TURN) are binary. So there is no list of
//! methods here: the form is refused, and with it everything that was sent together with it.

/// The length of the longest path of Linux (`PATH_MAX`).
const LONGEST_PATH: usize = 4_096;

/// The protocol of bytes that are no command, as the end of the sentence "it sent ..". `None` if they may be a command.
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
    // A line without a version is HTTP/0.9. Its methods are all in capital letters, as no program's name is.
    let is_old_http = is_token(first) && is_of_capitals(first) && is_target(second);
    // If a path has no end yet and is longer than any path, it is a target whose rest has not arrived.
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

/// Whether no typed line contains this byte: a control character other than white space and ESC, with which a colour begins.
fn is_of_no_text(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t'..=b'\r' | 0x1b)
}

/// Whether a word is a token of RFC 9110, 5.6.2, as each method is.
fn is_token(word: &[u8]) -> bool {
    let is_of_a_token =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(is_of_a_token)
}

fn is_of_capitals(word: &[u8]) -> bool {
    word.iter().any(u8::is_ascii_uppercase) && !word.iter().any(u8::is_ascii_lowercase)
}

/// Whether a word is a path, or an address with a scheme.
fn is_target(word: &[u8]) -> bool {
    word.starts_with(b"/") || word.windows(3).any(|three| three == b"://")
}

/// Whether a word begins with `HTTP/1.1`, or with any other version of HTTP.
fn names_http(word: &[u8]) -> bool {
    starts_like(word, b"HTTP/") && word.get(5).is_some_and(u8::is_ascii_digit)
}

/// Whether these words begin an HTTP/2 connection. The second one may not have arrived.
fn is_preface(first: &[u8], second: &[u8]) -> bool {
    first == b"PRI" && (second.is_empty() || second == b"*")
}

/// Whether a word is a protocol with its version, such as `RTSP/1.0`, `SIP/2.0` or `ICAP/1.0`.
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
