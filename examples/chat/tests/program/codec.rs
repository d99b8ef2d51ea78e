//! The wire: messages are read as they were sent, however their bytes are cut.

#[allow(dead_code, reason = "the program uses all of it")]
#[path = "../../src/characters.rs"]
mod characters;
#[allow(dead_code, reason = "the program uses all of it")]
#[path = "../../src/name.rs"]
mod name;
#[allow(dead_code, reason = "the program uses all of it")]
#[path = "../../src/protocol.rs"]
mod protocol;

use name::{check_name, fold, looks, normal};
use proptest::prelude::*;
use protocol::{
    ANSWER_BYTES, Incoming, Kind, LINE_BYTES, Message, TooLong, WAITING_BYTES, Waiting, clean,
    clean_name, quoted,
};

/// Cuts bytes into pieces.
fn cut(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

fn decode(pieces: &[Vec<u8>]) -> Result<Vec<String>, TooLong> {
    let mut incoming = Incoming::default();
    let mut lines = Vec::new();
    for piece in pieces {
        incoming.push(piece);
        while let Some(line) = incoming.next_line()? {
            lines.push(line);
        }
    }
    lines.extend(incoming.rest()?);
    Ok(lines)
}

#[test]
fn a_quoted_line_is_short_and_cut_between_whole_characters() {
    assert_eq!(quoted("hello"), "\"hello\"");
    assert_eq!(quoted(&"x".repeat(60)), format!("\"{}\"", "x".repeat(60)));
    assert_eq!(quoted(&"x".repeat(61)), format!("\"{}..\"", "x".repeat(60)));
    assert_eq!(quoted(&"龍".repeat(99)), format!("\"{}..\"", "龍".repeat(60)));
    let x = "x".repeat(58);
    // A letter and its mark, and a family of three, stay together.
    assert_eq!(quoted(&format!("{x}ye\u{301}z")), format!("\"{x}y..\""));
    assert_eq!(quoted(&format!("{x}👩\u{200d}👧\u{200d}👦 z")), format!("\"{x}..\""));
    assert_eq!(quoted(&format!("{x} \u{1b}[2J\u{202e}")), format!("\"{x} �..\""));
}

fn turns_or_controls(one: char) -> bool {
    one.is_control() || ('\u{2028}'..='\u{202e}').contains(&one)
}

proptest! {
    #[test]
    fn a_quoted_line_is_safe_and_begins_as_the_line_does(text in "(?s).{0,200}") {
        let quote = quoted(&text);
        let quote = quote.strip_prefix('"').and_then(|quote| quote.strip_suffix('"')).unwrap();
        prop_assert!(!quote.chars().any(turns_or_controls));
        let begins = quote.strip_suffix("..").unwrap_or(quote);
        prop_assert!(clean(text.as_bytes()).starts_with(begins));
        prop_assert!(begins.chars().count() <= 60);
    }

    #[test]
    fn lines_arrive_as_they_were_sent_however_they_are_cut(
        lines in prop::collection::vec("[^\\p{C}\\p{Zl}\\p{Zp}]{0,40}", 0..20),
        crlf: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let ending = if crlf { "\r\n" } else { "\n" };
        let sent: String = lines.iter().flat_map(|line| [line, ending]).collect();
        prop_assert_eq!(decode(&cut(sent.as_bytes(), &cuts)), Ok(lines));
    }

    #[test]
    fn any_bytes_give_the_same_however_they_are_cut(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r')], 0..300),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let lines = decode(&cut(&bytes, &cuts)).unwrap();
        prop_assert_eq!(&decode(&[bytes]).unwrap(), &lines);
        for line in lines {
            prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
            Message::parse(&line);
        }
    }

    #[test]
    fn a_line_is_taken_up_to_its_limit_and_never_beyond(
        over in 0..3_usize,
        ending in prop_oneof![Just("\n"), Just("\r\n"), Just("")],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let text = "x".repeat(LINE_BYTES + over);
        let sent = format!("{text}{ending}");
        let expected = if over == 0 { Ok(vec![text]) } else { Err(TooLong) };
        prop_assert_eq!(decode(&cut(sent.as_bytes(), &cuts)), expected);
    }

    #[test]
    fn cleaned_text_is_safe_bounded_and_stays_as_it_is(bytes in prop::collection::vec(any::<u8>(), 0..9_000)) {
        let text = clean(&bytes);
        prop_assert!(text.len() <= LINE_BYTES);
        prop_assert!(!text.chars().any(turns_or_controls));
        prop_assert_eq!(&clean(text.as_bytes()), &text);
        // The same bytes may come as a name from another server, or from a program in its place.
        let name = clean_name(&bytes);
        prop_assert!(text.starts_with(&name) && name.len() <= name::NAME_BYTES);
    }

    #[test]
    fn answers_give_all_that_waits_in_pieces_that_one_read_takes(
        lines in prop::collection::vec("[a-z龍]{0,900}", 1..20),
    ) {
        let mut waiting = Waiting::default();
        for line in &lines {
            waiting.push(Kind::Said, &format!("{line}\n"));
        }
        let mut heard = String::new();
        while let Some(answer) = waiting.answer() {
            prop_assert!(answer.len() <= ANSWER_BYTES);
            heard += &answer;
        }
        // The client itself adds the newlines at the ends of pieces.
        prop_assert_eq!(heard.replace('\n', ""), lines.concat());
    }

    #[test]
    fn what_waits_is_bounded(lines in prop::collection::vec(0..9_000_usize, 0..60)) {
        let mut waiting = Waiting::default();
        for length in lines {
            waiting.push(Kind::Said, &("x".repeat(length) + "\n"));
        }
        prop_assert!(waiting.all().len() <= WAITING_BYTES);
    }

    #[test]
    fn a_name_stands_before_a_line_and_cannot_be_taken_for_anything_else(name in "\\PC{0,40}") {
        if check_name(&name).is_ok() {
            prop_assert!(!name.contains([' ', ':', '*', '@', '/', '>', '\n']));
            prop_assert_ne!(fold(&name), "operator");
            let nick = Message::parse(&format!("/nick {name}"));
            prop_assert_eq!(nick, Message::Nick(name.clone()));
            let tell = Message::parse(&format!("@{name} hello  there"));
            prop_assert_eq!(tell, Message::Tell { to: name, text: "hello  there".into() });
        }
    }
}

#[test]
fn an_empty_line_is_no_answer_by_itself() {
    let mut waiting = Waiting::default();
    waiting.push(Kind::Said, "\n");
    waiting.push(Kind::Said, &"x".repeat(2_000));
    let answer = waiting.answer().unwrap();
    assert_eq!(answer, format!("\n{}", "x".repeat(1_023)));
}

#[test]
fn messages_mean_what_they_say() {
    let say = |text: &str| Message::Say(text.to_owned());
    for (text, meaning) in [
        ("", Message::Nothing),
        ("  ", Message::Nothing),
        ("hello ", say("hello")),
        ("@bob", say("@bob")),
        ("@ bob", say("@ bob")),
        ("//quit", say("/quit")),
        ("/quit", Message::Quit),
        ("/quit now", Message::Unknown("/quit".into())),
        ("/nick", Message::Unknown("/nick".into())),
        ("/nick a b", Message::Unknown("/nick".into())),
        ("/kick  bob", Message::Kick("bob".into())),
        ("/", Message::Unknown("/".into())),
    ] {
        assert_eq!(Message::parse(text), meaning, "{text:?}");
    }
}

#[test]
fn a_silence_ends_a_message_only_before_the_first_newline() {
    let mut incoming = Incoming::default();
    assert!(!incoming.awaits_silence());
    incoming.push(b"hel");
    assert_eq!(incoming.next_line(), Ok(None));
    assert!(incoming.awaits_silence() && !incoming.has_lines());
    assert_eq!(incoming.rest(), Ok(Some("hel".into())));
    assert!(!incoming.awaits_silence());
    incoming.push(b"a line\nand half");
    assert_eq!(incoming.next_line(), Ok(Some("a line".into())));
    assert_eq!(incoming.next_line(), Ok(None));
    assert!(incoming.has_lines() && !incoming.awaits_silence());
}

#[test]
fn names_of_every_script_are_welcome_and_kept_in_one_form() {
    for name in [
        "कृष्ण",
        "সুব্রত",
        "விக்ரம்",
        "కృష్ణ",
        "കൃഷ്ണൻ",
        "น้ำ",
        "อนุพงษ์",
        "អង្គរ",
        "လူမျိုး",
        "ကြွေး",
        "བསྟན་འཛིན",
        "ශ්‍රී",
        "محمّد",
        "نیک‌نام",
        "ישראל",
        "ג׳ורג׳",
        "Ἀχιλλεύς",
        "Zoë",
        "Łukasz",
        "Gal·la",
        "O'Brien",
        "D’Arcy",
        "ジョン・スミス",
        "がぎぐ",
        "王小明",
        "김철수",
        "Ꭴꮃ",
        "ⴰⵎⴰⵣⵉⵖ",
        "ߒߞߏ",
        "𞤀𞤣𞤤𞤢𞤥",
        "ᠮᠣᠩᠭᠣᠯ",
        "Nguyễn",
        "İbrahim",
        "Straße",
        "_x_",
        "-",
        "q.1",
    ] {
        let expected = name != "-";
        assert_eq!(check_name(name).is_ok(), expected, "{name}");
        // The name as another keyboard or file system writes it.
        let decomposed: String = unicode_normalization::UnicodeNormalization::nfd(name).collect();
        assert_eq!(check_name(&decomposed).is_ok(), expected, "{name}");
        assert_eq!(normal(&decomposed), normal(name));
        assert_eq!(fold(&decomposed), fold(name));
    }
    for (one, other) in [
        ("Bob", "bOB"),
        ("STRASSE", "straße"),
        ("ＡＬＩＣＥ", "alice"),
        ("ΝΙΚΟΣ", "νικος"),
        ("ﬁlip", "filip"),
        ("نیک‌نام", "نیکنام"),
        ("ｶﾞｷﾞ", "ガギ"),
    ] {
        assert_eq!(fold(one), fold(other));
    }
}

#[test]
fn what_is_not_seen_or_belongs_to_no_letter_is_in_no_name() {
    for name in [
        "",
        "...",
        "\u{31}\u{20e3}",
        "a\u{13441}",
        "\u{13441}",
        "a\u{115f}",
        "a\u{1160}",
        "a\u{3164}",
        "a\u{ffa0}",
        "a\u{2800}",
        "a\u{200b}",
        "a\u{200d}b",
        "a\u{200c}b",
        "a\u{200d}",
        "a\u{ad}b",
        "a\u{34f}b",
        "a\u{17b4}",
        "a\u{180b}",
        "a\u{fe0f}",
        "a\u{e0100}",
        "a\u{e0061}",
        "a\u{2060}b",
        "a\u{feff}",
        "a\u{202e}b",
        "a\u{1d159}",
        "a\u{a0}b",
        "a\u{3000}b",
        "a b",
        // Marks without a letter, of another script, or too many of them.
        "\u{e31}",
        "a\u{e31}",
        "a\u{1cf7}",
        "a\u{345}",
        "a\u{a9bd}",
        "a\u{64b}",
        "1\u{301}",
        "a\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}\u{309}\u{30a}",
        "a:b",
        "a@b",
        "a/b",
        "a,b",
        "'a",
        "a\u{2236}",
        "🅐🅑",
        "☃",
    ] {
        assert!(check_name(name).is_err(), "{name:?} {}", name.escape_unicode());
    }
}

#[test]
fn names_that_would_pass_for_the_operators_are_refused() {
    for name in [
        "operator",
        "Operator",
        "OPERATOR",
        "0perator",
        "operat0r",
        "operator.",
        "_operator_",
        "op.erator",
        "о\u{440}erator",
        "\u{43e}\u{440}\u{435}\u{433}\u{430}t\u{43e}\u{433}",
        "ОРЕRАТОR",
        "οperator",
        "ｏｐｅｒａｔｏｒ",
        "𝐨𝐩𝐞𝐫𝐚𝐭𝐨𝐫",
        "ⓞⓟⓔⓡⓐⓣⓞⓡ",
        "ᴏᴘᴇʀᴀᴛᴏʀ",
        "ópèrâtör",
        "o\u{323}perator",
        "operator\u{307}",
        "operator'",
    ] {
        assert!(check_name(name).is_err(), "{name} {}", name.escape_unicode());
    }
    for name in ["operators", "cooperator", "operato", "operator2"] {
        assert!(check_name(name).is_ok(), "{name}");
    }
}

#[test]
fn names_that_look_alike_have_a_look_in_common() {
    let alike = |one: &str, other: &str| looks(one).iter().any(|look| looks(other).contains(look));
    for (one, other) in [
        ("alice", "аlice"),
        ("alice", "aIice"),
        ("alice", "a1ice"),
        ("alice", "_alice."),
        ("bob", "B0B"),
        ("modern", "modem"),
        ("José", "Jose\u{301}"),
    ] {
        assert!(alike(one, other), "{one} {other}");
    }
    for (one, other) in
        [("alice", "malice"), ("José", "Jose"), ("कि", "का"), ("guest-1", "guest-11")]
    {
        assert!(!alike(one, other), "{one} {other}");
    }
}

#[test]
fn runs_of_what_is_not_seen_are_short() {
    let lines = |blank: &str| format!(".{}operator: the new one", blank.repeat(70));
    for blank in [
        " ",
        "\t",
        "\u{a0}",
        "\u{2003}",
        "\u{3000}",
        "\u{2800}",
        "\u{3164}",
        "\u{13441}",
        " \u{200b}",
        "\u{200d} ",
        "\u{fe0f}\u{a0}",
    ] {
        let shown = clean(lines(blank).as_bytes());
        assert!(
            shown.chars().count() <= lines("").chars().count() + 8,
            "{}",
            shown.escape_unicode()
        );
        assert!(shown.starts_with('.') && shown.ends_with("operator: the new one"));
    }
    let piled = format!("a{}b", "\u{301}".repeat(1_000));
    assert_eq!(clean(piled.as_bytes()).chars().count(), 10);
    // Text that people write stays as it is.
    for text in ["        fn main() {}", "👨‍👩‍👧‍👦 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "नमस्ते  दुनिया", "你好　世界", "نیک‌نام"]
    {
        assert_eq!(clean(text.as_bytes()), text);
    }
    assert_eq!(
        Message::parse("@王小明\u{3000}你好"),
        Message::Tell { to: "王小明".into(), text: "你好".into() }
    );
}
