//! Passwords on the command line. A message about a wrong address, or about an address in a wrong place, repeats
//! the address on stderr, and so in a journal. [`hide`] removes the password from such a message.

use std::ffi::OsString;

/// The text without the passwords that are on the command line.
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

/// The word with stars in place of a user and a password. `None` if it has neither.
fn without_password(word: &str) -> Option<String> {
    let (scheme, rest) = match word.find("://") {
        Some(at) => word.split_at(at + 3),
        None => ("", word),
    };
    if let Some((secret, rest)) = rest.rsplit_once('@') {
        // `unix:@NAME` and `@NAME` have no password.
        let innocent = scheme.is_empty() && matches!(secret, "" | "unix" | "unix:" | "unixgram:");
        return (!innocent).then(|| format!("{scheme}***@{rest}"));
    }
    // Without an `@` the address begins with its host, whose colon is followed by a port. Anything else after a colon may
    // be a password.
    let authority = rest.split('/').next().unwrap_or(rest);
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let is_place = authority.starts_with('[') || authority.matches(':').count() <= 1;
    if scheme.is_empty() || is_place && port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(format!("{scheme}***"))
}
