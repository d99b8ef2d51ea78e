//! Names: which there may be, the form in which they are compared, and which look alike.
//!
//! Letters of all scripts are welcome, with the marks that belong to them: many scripts cannot be written without.
//! What is written in several ways (a letter with its accent in one character or in two) is kept in one, NFC.
//!
//! Limits: what looks alike is what Unicode's list of confusable characters says (UTS 39), small capitals, and what
//! differs in letters' case or in signs at the ends; not what looks alike only at a glance (`aIice` does, `a1iice` does
//! not). Signs of the same look within one script that is not of the list are taken for different.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_script::{Script, UnicodeScript};
use unicode_security::skeleton;

use super::characters::{is_blank, is_invisible, is_joiner};

/// Characters of a name at most: it stands before every line.
pub const NAME_CHARS: usize = 32;
/// Bytes of a name at most, however it is written: no character of NFC is longer apart than four of four bytes.
const NAME_BYTES: usize = NAME_CHARS * 16;
/// What the operator is called, and nobody else may be, or seem to be.
pub const OPERATOR: &str = "operator";

/// Signs that a name may have anywhere.
const SIGNS: &str = "-_.";
/// Signs that stand within names, or behind them: O'Brien, Gal·la, ג׳ורג׳, བསྟན་འཛིན, ジョン・スミス.
const INNER_SIGNS: &str = "'\u{2019}\u{b7}\u{5f3}\u{5f4}\u{f0b}\u{30fb}";

/// The name as it is kept and shown.
pub fn normal(name: &str) -> String {
    name.nfc().collect()
}

/// Says what is wrong with a name, if something is: what separates a name from its line, is not seen, or does not
/// belong to the letter before it.
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

/// Whether a text is longer than any name. It is asked before a text is folded that may be as long as a line, because to
/// fold is slow, and a room waits meanwhile.
pub fn is_too_long(name: &str) -> bool {
    name.len() > NAME_BYTES
}

fn is_letter(character: char) -> bool {
    // Negative circled and squared letters are signs, to which no letter is the same.
    let is_sign = matches!(character, '\u{1f150}'..='\u{1f169}' | '\u{1f170}'..='\u{1f189}');
    character.is_alphanumeric()
        && !is_sign
        && !is_combining_mark(character)
        && !is_blank(character)
        && !is_invisible(character)
}

/// Whether a character may stand behind these, and before that.
fn belongs(character: char, before: &[char], next: Option<&char>) -> bool {
    /// Marks on one letter at most.
    const MARKS: usize = 8;
    let marks = before.iter().rev().take_while(|one| is_combining_mark(**one) || is_joiner(**one));
    let marks = marks.count();
    let letter = before.iter().rev().nth(marks).copied().filter(|one| is_letter(*one));
    if is_joiner(character) {
        // After a virama, or between letters of scripts whose letters join: elsewhere it does nothing but hide.
        let joins = |one: &char| {
            canonical_combining_class(*one) == 9
                || matches!(one.script(), Script::Arabic | Script::Syriac)
        };
        return before.last().is_some_and(joins) && next.is_some_and(|next| is_letter(*next));
    }
    if is_combining_mark(character) {
        // Digits belong to no script, and have no marks.
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

/// The form in which names are looked for: nobody is called Bob where there is a bob, and an `@` finds a name that is
/// written in full width, in capitals, or in several characters where it is one.
pub fn fold(name: &str) -> String {
    let plain = name.nfkc().filter(|one| is_told_apart(*one));
    let folded = plain.flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    folded.collect::<String>().nfkc().collect()
}

/// No joiner, nor the sign that makes an Arabic word longer.
fn is_told_apart(character: char) -> bool {
    !is_invisible(character) && character != '\u{640}'
}

/// What a name looks like: two that have one of these in common may be taken for each other.
pub fn looks(name: &str) -> [String; 3] {
    let folded = fold(name);
    // Before the case is gone as well: a capital I is an l, and a small one is not.
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
    // Its marks may be too small to be seen.
    let without_marks: String = name.nfkd().filter(|one| !is_combining_mark(*one)).collect();
    looks(name).iter().chain(&looks(&without_marks)).any(|look| bare(look))
}

/// Small capitals look like the capitals that they are, and so do letters that look like them.
fn without_small_capital(character: char) -> char {
    const SMALL_CAPITALS: &str = "ᴀʙᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ";
    const LETTERS: &str = "abcdeghijklmnoprstuvwyz";
    let found = SMALL_CAPITALS.chars().position(|one| one == character);
    found.and_then(|at| LETTERS.chars().nth(at)).unwrap_or(character)
}
