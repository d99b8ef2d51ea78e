//! The values of options: times, numbers and sizes. Each error says what to write, in the same words in all programs.

use std::str::FromStr;
use std::time::Duration;

use socketserver::Limits;

/// Reads a time, as [`Limits::set`] and the control socket read it: seconds (`60`, `0.5`), or with a unit (`500ms`, `60s`,
/// `5m`, `2h`). `none` is the longest time, which is no limit.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let mut limits = Limits::default();
    limits.set("idle", text).map(|()| limits.idle).map_err(|_| write_a_time())
}

/// Reads a time as [`seconds`] does, but refuses `none`: if a lame duck had no end, no signal would close the server.
pub(crate) fn lame_duck(text: &str) -> Result<Duration, String> {
    let mut limits = Limits::default();
    let read = limits.set("lame_duck", text).map(|()| limits.lame_duck);
    read.map_err(|_| format!("{}; 0 is no lame duck", write_a_time()))
}

fn write_a_time() -> String {
    "write a time: seconds (60, 0.5), or with a unit (500ms, 60s, 5m, 2h)".to_owned()
}

/// Reads a number of at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    digits(text).filter(|count| *count > 0).ok_or_else(|| "write a number of at least 1".to_owned())
}

/// Reads how many requests an operator wants to see: 0 asks for their count alone.
pub(crate) fn rows(text: &str) -> Result<usize, String> {
    digits(text).ok_or_else(|| "write a number of requests; 0 is the count alone".to_owned())
}

/// Reads a number of events per second. Both `0` and `none` mean no limit, and give 0.
pub fn rate(text: &str) -> Result<u32, String> {
    let read = if text == "none" { Some(0) } else { digits(text) };
    read.ok_or_else(|| "write a number per second; 0 or none is no limit".to_owned())
}

/// Reads a number of milliseconds.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    let read = digits(text).map(|number: u32| Duration::from_millis(number.into()));
    read.ok_or_else(|| "write a number of milliseconds".to_owned())
}

/// Reads a number of bytes: `1500`, `64K`, `2G`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units = "KMGT";
    let unit = text.chars().last().and_then(|last| units.find(last.to_ascii_uppercase()));
    let number = if unit.is_some() { &text[..text.len() - 1] } else { text };
    let shift = unit.map_or(0, |place| 10 * (place + 1));
    let size = digits(number).and_then(|number: u64| number.checked_mul(1 << shift));
    size.ok_or_else(|| "write a number of bytes, as 1500 or 64K or 2G".to_owned())
}

/// A number in digits alone; `parse` would take a sign. `None` if it is no number, or larger than its type can hold.
fn digits<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that no option accepts as a number: blanks, signs, fractions, exponents, letters, 2^64, and a digit that is
    /// not ASCII.
    const NONSENSE: [&str; 9] =
        ["", " ", "-1", "+1", "1.5", "18446744073709551616", "1e3", "x", "\u{663}"];

    #[test]
    fn what_is_no_number_is_told_what_to_write() {
        let cases: [(fn(&str) -> bool, &str); 4] = [
            (|text| count(text).is_err_and(|why| why == "write a number of at least 1"), "count"),
            (
                |text| {
                    rate(text)
                        .is_err_and(|why| why.starts_with("write a number per second; 0 or none"))
                },
                "rate",
            ),
            (
                |text| milliseconds(text).is_err_and(|why| why == "write a number of milliseconds"),
                "milliseconds",
            ),
            (
                |text| bytes(text).is_err_and(|why| why.starts_with("write a number of bytes")),
                "bytes",
            ),
        ];
        for (is_told, what) in cases {
            for text in NONSENSE {
                assert!(is_told(text), "{what} {text:?}");
            }
        }
        assert!(count("0").is_err() && count("none").is_err() && rate("4294967296").is_err());
        assert!(bytes("16777216T").is_err() && bytes("K").is_err());
        for text in ["", "-1", "1e3", "x", "inf"] {
            assert!(seconds(text).is_err() && lame_duck(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        assert_eq!(count("1"), Ok(1));
        assert_eq!((rows("0"), rows("20"), rows("+1").is_err()), (Ok(0), Ok(20), true));
        assert_eq!([rate("0"), rate("none"), rate("20")], [Ok(0), Ok(0), Ok(20)]);
        assert_eq!(milliseconds("200"), Ok(Duration::from_millis(200)));
        assert_eq!(
            [bytes("0"), bytes("1500"), bytes("64k"), bytes("2G")],
            [Ok(0), Ok(1_500), Ok(65_536), Ok(2 << 30)]
        );
        assert_eq!(seconds("none"), Ok(Duration::MAX));
        assert!(lame_duck("none").is_err());
    }
}
