//! Names: which are valid, the form in which they are compared, and which look alike.
//!
//! Letters of all scripts are welcome, with the marks that belong to them. Characters that can be written in several ways
//! (an accent in one character with its letter, or in two) are kept in one form, NFC.
//!
//! Limits: two names look alike if Unicode's list of confusable characters says so (UTS 39), if small capitals stand for
//! capitals, or if they differ only in case or in signs at the ends: `aIice` looks like `alice`, and `a1iice` does not.
//! Other characters that look similar count as different.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_script::{Script, UnicodeScript};
use unicode_security::skeleton;

use super::characters::{is_blank, is_invisible, is_joiner};

/// The most characters of a name: it stands before every line.
pub const NAME_CHARS: usize = 32;
/// The most bytes of a name, in any form: a character of NFC decomposes into at most four, of four bytes each.
pub const NAME_BYTES: usize = NAME_CHARS * 16;
/// The operator's name. No member may have it, or one that looks like it.
pub const OPERATOR: &str = "operator";

/// Signs that a name may have anywhere.
const SIGNS: &str = "-_.";
/// Signs that a name may have inside or at its end, but not at its beginning: O'Brien, Gal·la, ג׳ורג׳, བསྟན་འཛིན,
/// ジョン・スミス.
const INNER_SIGNS: &str = "'\u{2019}\u{b7}\u{5f3}\u{5f4}\u{f0b}\u{30fb}";

/// The name in the form that is stored and shown.
pub fn normal(name: &str) -> String {
    name.nfc().collect()
}

/// Checks a name. The error says what a name may have. Characters are refused if they would separate the name from
/// its line, if they are invisible, or if they do not belong to the letter before them.
pub fn check_name(name: &str) -> Result<(), String> {
    let name: Vec<char> = if is_too_long(name) { Vec::new() } else { name.nfc().collect() };
    let fits = name.len() <= NAME_CHARS && name.iter().any(|one| is_letter(*one));
    if !fits || !(0..name.len()).all(|at| belongs(name[at], &name[..at], name.get(at + 1))) {
        return Err(format!(
            "a name has 1 to {NAME_CHARS} letters of any script, with the marks that belong to them, digits, \
             dots, hyphens and underscores"
        ));
    }
    let name: String = name.iter().collect();
    if fold(&name) == OPERATOR {
        return Err(format!("the name {OPERATOR} is the operator's"));
    }
    if passes_for_operator(&name) {
        return Err(format!("the name {name} would pass for the operator's"));
    }
    Ok(())
}

/// Whether a text is longer than any name. This is checked before a text of any length is folded, because folding is slow
/// and holds the room's lock.
pub fn is_too_long(name: &str) -> bool {
    name.len() > NAME_BYTES
}

fn is_letter(character: char) -> bool {
    // Negative circled and squared letters are signs; no letter equals them.
    let is_sign = matches!(character, '\u{1f150}'..='\u{1f169}' | '\u{1f170}'..='\u{1f189}');
    character.is_alphanumeric()
        && !is_sign
        && !is_combining_mark(character)
        && !is_blank(character)
        && !is_invisible(character)
}

/// Whether a character may stand between the characters `before` and the character `next`.
fn belongs(character: char, before: &[char], next: Option<&char>) -> bool {
    /// The most marks on one letter.
    const MARKS: usize = 8;
    let marks = before.iter().rev().take_while(|one| is_combining_mark(**one) || is_joiner(**one));
    let marks = marks.count();
    let letter = before.iter().rev().nth(marks).copied().filter(|one| is_letter(*one));
    if is_joiner(character) {
        // A joiner has a use after a virama, and between letters of scripts whose letters join. Elsewhere it would be
        // invisible and have no effect.
        let joins = |one: &char| {
            canonical_combining_class(*one) == 9
                || matches!(one.script(), Script::Arabic | Script::Syriac)
        };
        return before.last().is_some_and(joins) && next.is_some_and(|next| is_letter(*next));
    }
    if is_combining_mark(character) {
        // Digits belong to no script and carry no marks, so only a letter counts.
        let letter = letter.filter(|letter| letter.is_alphabetic());
        let of_its_script = |letter: char| {
            !letter.script_extension().intersection(character.script_extension()).is_empty()
        };
        return marks < MARKS && !is_invisible(character) && letter.is_some_and(of_its_script);
    }
    is_letter(character)
        || SIGNS.contains(character)
        || INNER_SIGNS.contains(character) && letter.is_some()
}

/// The form in which names are compared. So `Bob` is taken if there is a `bob`, and an `@` finds a name that is typed
/// in full width, in capitals, or in decomposed characters.
pub fn fold(name: &str) -> String {
    let plain = name.nfkc().filter(|one| is_told_apart(*one));
    let folded = plain.flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    folded.collect::<String>().nfkc().collect()
}

/// Whether a character counts when names are compared. Joiners do not, nor does the sign that lengthens Arabic words.
fn is_told_apart(character: char) -> bool {
    !is_invisible(character) && character != '\u{640}'
}

/// The forms of a name by its look. Two names look alike if they have one of these forms in common.
pub fn looks(name: &str) -> [String; 3] {
    let folded = fold(name);
    // The look of the name as it is written counts as well: a capital I looks like an l, and a small i does not.
    let plain: String = name.nfkc().filter(|one| is_told_apart(*one)).collect();
    [look(&plain), look(&folded), folded]
}

fn look(name: &str) -> String {
    let letters: String = skeleton(name).map(without_small_capital).collect();
    let folded = fold(&letters);
    let is_sign = |one: char| SIGNS.contains(one) || INNER_SIGNS.contains(one);
    let bare = folded.trim_matches(is_sign);
    if bare.is_empty() { folded } else { bare.to_owned() }
}

fn passes_for_operator(name: &str) -> bool {
    let bare = |text: &str| {
        let letters = text.nfkd().filter(|one| is_letter(*one)).collect::<String>();
        letters == OPERATOR
    };
    // The marks of the name may be too small to be seen.
    let without_marks: String = name.nfkd().filter(|one| !is_combining_mark(*one)).collect();
    looks(name).iter().chain(&looks(&without_marks)).any(|look| bare(look))
}

/// Replaces a small capital by the plain letter.
fn without_small_capital(character: char) -> char {
    const SMALL_CAPITALS: &str = "ᴀʙᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ";
    const LETTERS: &str = "abcdeghijklmnoprstuvwyz";
    let found = SMALL_CAPITALS.chars().position(|one| one == character);
    found.and_then(|at| LETTERS.chars().nth(at)).unwrap_or(character)
}
