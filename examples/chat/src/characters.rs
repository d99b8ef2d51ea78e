//! Characters that do not show as letters on a screen: some control it, some are invisible.

use unicode_normalization::char::is_combining_mark;

/// Whether a character controls a terminal or changes the direction of text: with such characters a line could pass for
/// another member's line.
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character is blank: white space, or a letter or sign with an empty glyph.
pub fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || matches!(character, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}') // Hangul fillers
        || matches!(character, '\u{2800}' | '\u{13441}' | '\u{13442}' | '\u{1d159}')
}

/// Whether a character is invisible, or visible only in its neighbours (Unicode: default ignorable). Joiners are such
/// characters, and some scripts need them.
pub fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{34f}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}')
        || matches!(character, '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}')
        || matches!(character, '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fff8}' | '\u{16fe4}')
        || matches!(character, '\u{13430}'..='\u{13440}' | '\u{13447}'..='\u{13455}')
        || matches!(character, '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(character, '\u{e0000}'..='\u{e0fff}')
}

/// Zero-width joiner and non-joiner.
pub fn is_joiner(character: char) -> bool {
    matches!(character, '\u{200c}' | '\u{200d}')
}

/// The most consecutive blanks: enough for the indent of a piece of a program. More of them would push the text after
/// them to the beginning of the terminal's next row, where it could pass for another member's line.
const BLANKS: usize = 8;
/// The most marks on one letter: a Tibetan or Burmese letter may have six. More of them would cover the lines above
/// and below.
const MARKS: usize = 8;

/// The text without long runs of blanks, of invisible characters, and of marks on one letter.
pub fn without_runs(text: &str) -> String {
    let (mut blanks, mut marks) = (0, 0);
    let kept = |character: &char| {
        let is_mark = !character.is_ascii() && is_combining_mark(*character);
        marks = if is_mark { marks + 1 } else { 0 };
        let is_seen = !is_blank(*character) && !is_invisible(*character);
        blanks = if is_seen { 0 } else { blanks + 1 };
        blanks <= BLANKS && marks <= MARKS
    };
    text.chars().filter(kept).collect()
}
