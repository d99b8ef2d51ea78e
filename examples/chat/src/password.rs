//! Passwords on the command line: an address that is in the wrong place, or wrong itself, is part of what is said of
//! the mistake, on stderr and so in a journal. It is shown without them.

use std::ffi::OsString;

/// A text in which the words of the command line have no passwords.
pub fn hide(text: &str, words: impl Iterator<Item = OsString>) -> String {
    words.fold(text.to_owned(), |text, word| {
        // An option and its value may be one word.
        let word = word.to_string_lossy();
        let word = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => value,
            _ => &word,
        };
        match without_password(word) {
            Some(hidden) => text.replace(word, &hidden),
            None => text,
        }
    })
}

/// The word with stars in the place of what may be a user and a password; none if there is nothing to hide.
fn without_password(word: &str) -> Option<String> {
    let (scheme, rest) = match word.find("://") {
        Some(at) => word.split_at(at + 3),
        None => ("", word),
    };
    if let Some((secret, rest)) = rest.rsplit_once('@') {
        // `unix:@NAME` is an address that has no password, and `@NAME` is nobody's.
        let innocent = scheme.is_empty() && matches!(secret, "" | "unix" | "unix:" | "unixgram:");
        return (!innocent).then(|| format!("{scheme}***@{rest}"));
    }
    // Without the host there is no @ either: only what can be a port may stand behind a colon.
    let authority = rest.split('/').next().unwrap_or(rest);
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let is_place = authority.starts_with('[') || authority.matches(':').count() <= 1;
    if scheme.is_empty() || is_place && port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(format!("{scheme}***"))
}
