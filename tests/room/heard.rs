//! The lines that a member hears, with their numbers, and which of them came once, in order.
//!
//! `#NAME.3 ..` is the fourth line that NAME says to all; `~NAME.3 ..` its fourth to one member. A notice that quotes a
//! line begins with `*`, like all that the server says itself.

/// A line of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line that a member said to all.
    Said {
        /// The author.
        name: &'a str,
        /// The number.
        number: u32,
    },
    /// A line that a member said to this member alone.
    Private {
        /// The author.
        name: &'a str,
        /// The number.
        number: u32,
    },
    /// A line that the server itself says.
    News(&'a str),
    /// A line in an unknown form.
    Other(&'a str),
}

impl<'a> Line<'a> {
    /// Reads a line, without its newline.
    pub fn read(line: &'a str) -> Self {
        if line.starts_with("* ") {
            return Self::News(line);
        }
        let Some((speaker, text)) = line.split_once(": ") else { return Self::Other(line) };
        let is_private = speaker.contains(" -> ");
        match mark(text) {
            Some(('#', name, number)) if !is_private => Self::Said { name, number },
            Some(('~', name, number)) if is_private => Self::Private { name, number },
            _ => Self::Other(line),
        }
    }
}

/// The mark that a text begins with: its kind, its author and its number.
fn mark(text: &str) -> Option<(char, &str, u32)> {
    let kind = text.chars().next().filter(|kind| ['#', '~'].contains(kind))?;
    let (name, rest) = text[1..].split_once('.')?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((kind, name, rest[..digits].parse().ok()?))
}

/// The lines of this author that a notice quotes: their kinds and numbers.
pub fn quoted(notice: &str, author: &str) -> Vec<(char, u32)> {
    let places = notice.match_indices(['#', '~']);
    let marks = places.filter_map(|(at, _)| mark(&notice[at..]));
    marks.filter(|(_, name, _)| *name == author).map(|(kind, _, number)| (kind, number)).collect()
}

/// The lines that a member has heard from one author.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    seen: Vec<u64>,
    next: u32,
    /// Lines that came again.
    pub duplicates: u32,
    /// Lines that came after a later one.
    pub disorder: u32,
}

impl Heard {
    /// Notes that the line with this number has come.
    pub fn add(&mut self, number: u32) {
        if self.has(number) {
            self.duplicates += 1;
            return;
        }
        let (word, bit) = (number as usize / 64, number % 64);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << bit;
        self.disorder += u32::from(number < self.next);
        self.next = self.next.max(number + 1);
    }

    /// Whether the line with this number has come.
    pub fn has(&self, number: u32) -> bool {
        let word = self.seen.get(number as usize / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    /// The numbers from `first` up to, but not including, `end` that have not come.
    pub fn missing(&self, first: u32, end: u32) -> impl Iterator<Item = u32> {
        (first..end).filter(|number| !self.has(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let said = Line::Said { name: "m1-0", number: 12 };
        assert_eq!(Line::read("m1-0@m1: #m1-0.12 xx"), said);
        assert_eq!(Line::read("m1-0: #m1-0.12"), said);
        let private = Line::Private { name: "m1-0", number: 3 };
        assert_eq!(Line::read("m1-0@m1 -> bob: ~m1-0.3"), private);
        assert!(matches!(Line::read("* m1-0: #m1-0.12"), Line::News(_)));
        assert!(matches!(Line::read("m1-0 -> bob: #m1-0.3"), Line::Other(_)));
    }

    #[test]
    fn a_notice_quotes_lines() {
        let notice = "* not told: \"#a-1.7 some words\", and \"~a-1.3\", and \"#b.2\"";
        assert_eq!(quoted(notice, "a-1"), [('#', 7), ('~', 3)]);
    }

    #[test]
    fn lines_are_counted() {
        let mut heard = Heard::default();
        [0, 1, 70, 2, 70].into_iter().for_each(|number| heard.add(number));
        assert_eq!((heard.duplicates, heard.disorder), (1, 1));
        assert_eq!(heard.missing(1, 5).collect::<Vec<_>>(), [3, 4]);
    }
}
