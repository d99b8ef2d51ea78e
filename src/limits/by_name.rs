//! Limits by their names, as an operator reads and changes them: on a control socket, in a file, on a command line.
//!
//! Each limit is one line of the table below: its field, and the kind of its value. The kind decides how text is read
//! and shown, and which values an error lists as allowed; the field's type only holds the value. So two fields of the
//! same type may have different rules: a number of requests cannot be zero, a number of bytes can.
//!
//! Reading is strict where a mistake would be silent (`1e9` seconds, a sign, a unit with a space), because an operator does
//! not see the value again until it matters. Showing and reading are inverse to each other, so that a listing can be put
//! into a file and read back.

use std::fmt::{self, Display};
use std::time::Duration;

use super::{Limits, Rate};

/// Takes one line for each field of [`Limits`], and makes the names and the arms of `get` and `set` from it. A test compares
/// the names with the struct's fields.
macro_rules! limits {
    ($($name:ident $kind:ident)*) => {
        impl Limits {
            /// The names of all limits, which are those of the fields, in their order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// The value of a limit by its name, as [`set`](Self::set) takes it. None if there is no such limit.
            ///
            /// ```
            /// # use socketserver::Limits;
            /// assert_eq!(Limits::default().get("idle").as_deref(), Some("60s"));
            /// ```
            #[must_use]
            pub fn get(&self, name: &str) -> Option<String> {
                match name {
                    $(stringify!($name) => Some(self.$name.show(Kind::$kind)),)*
                    _ => None,
                }
            }

            /// Changes the limit of that name, for programs whose operators change limits by text. To change a limit of
            /// a running server, use [`ServerContext::set_limit`](crate::ServerContext::set_limit).
            ///
            /// | limit | value |
            /// |---|---|
            /// | a number of requests | `500` |
            /// | a number of bytes | `4096`, `64K`, `16M`, `1G` |
            /// | a time | seconds (`60`, `0.5`), or with a unit: `500ms`, `60s`, `5m`, `2h` |
            /// | a rate | requests each second (`100`), or those and the requests at once: `100/20` |
            /// | no limit | `none`, for all limits but `lame_duck`: a lame duck without an end would keep the server from closing |
            ///
            /// A number of requests and a rate are at least 1: an operator who writes `0` may mean no requests at all,
            /// or no limit.
            ///
            /// ```
            /// use std::time::Duration;
            /// use socketserver::Limits;
            ///
            /// let mut limits = Limits::default();
            /// limits.set("idle", "5m")?;
            /// assert_eq!(limits.idle, Duration::from_secs(300));
            /// let error = limits.set("idle", "soon").unwrap_err().to_string();
            /// assert!(error.starts_with("the limit idle cannot be \"soon\": it takes "));
            /// # Ok::<(), socketserver::monitor::LimitError>(())
            /// ```
            ///
            /// # Errors
            ///
            /// If there is no such limit, or if the value is not of its kind. The error names the limit, the value and
            /// what is allowed; nothing has changed.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), LimitError> {
                match name {
                    $(stringify!($name) => {
                        let read = Value::read(value, Kind::$kind);
                        self.$name = read.ok_or_else(|| LimitError::bad(name, value, Kind::$kind))?;
                    })*
                    _ => return Err(LimitError::unknown(name)),
                }
                Ok(())
            }
        }
    };
}

limits! {
    live Count
    per_peer Count
    accept_rate Rate
    peer_rate Rate
    line_bytes Bytes
    outbox_bytes Bytes
    idle Time
    read Time
    write Time
    request Time
    handshake Time
    handshakes Count
    proxy_header Time
    linger Time
    linger_bytes Bytes
    drain Time
    lame_duck Delay
    first_read Time
}

/// A line for each limit: its name and its value, as [`Limits::set`] takes them.
///
/// ```
/// # use socketserver::Limits;
/// assert!(Limits::default().to_string().contains("\nidle 60s\n"));
/// ```
impl Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in Self::NAMES {
            writeln!(f, "{name} {}", self.get(name).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// A limit that cannot be changed as asked: its name is unknown, or the value is not of its kind. Print it: the text
/// names the limit, the value and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitError(String);

impl LimitError {
    fn unknown(name: &str) -> Self {
        // The list shows the operator the limit that was meant.
        Self(format!("there is no limit {name:?}; the limits are {}", Limits::NAMES.join(", ")))
    }

    /// The error for a value that is not of the limit's kind. The value is quoted, because it may be empty, or have a
    /// space that nobody sees.
    fn bad(name: &str, value: &str, kind: Kind) -> Self {
        Self(format!("the limit {name} cannot be {value:?}: it takes {}", kind.allowed()))
    }
}

impl Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LimitError {}

/// The unit of a limit, and its rules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A number of requests. Zero would stop a server, so a zero in text is refused, and a zero that code sets counts
    /// as one.
    Count,
    /// A number of bytes, with a unit in powers of 1,024.
    Bytes,
    /// A time limit. It may be zero or `none`.
    Time,
    /// A time that a close waits for, so it must have an end.
    Delay,
    /// A number of requests each second, and a number of requests at once.
    Rate,
}

impl Kind {
    /// The end of an error's sentence: "it takes ..".
    fn allowed(self) -> &'static str {
        match self {
            Self::Count => "a number of requests (500) of at least 1, or none, which is no limit",
            Self::Bytes => "a number of bytes (4096, 64K, 16M, 1G), or none",
            Self::Time => {
                "seconds (60, 0.5), or a time with its unit (500ms, 60s, 5m, 2h), or none"
            }
            Self::Delay => {
                "seconds (60, 0.5), or a time with its unit (500ms, 60s, 5m, 2h); 0 is none of it"
            }
            Self::Rate => {
                "requests each second (100), or those and the requests at once (100/20), of at \
                 least 1, or none, which is no limit"
            }
        }
    }
}

/// The word for no limit.
const NO_LIMIT: &str = "none";

/// The value of a field as text. Each type of field has one implementation; the kind gives it the rules.
trait Value: Sized {
    /// Writes the value as [`read`](Self::read) takes it. (A lame duck without an end, which only code can set, is shown as
    /// `none`.)
    fn show(&self, kind: Kind) -> String;

    /// Reads a value. None: the text is not a value of that kind.
    fn read(text: &str, kind: Kind) -> Option<Self>;
}

impl Value for usize {
    fn show(&self, kind: Kind) -> String {
        match *self {
            Self::MAX => NO_LIMIT.to_owned(),
            // Zero counts as one.
            0 if kind == Kind::Count => "1".to_owned(),
            number => number.to_string(),
        }
    }

    fn read(text: &str, kind: Kind) -> Option<Self> {
        if text == NO_LIMIT {
            return Some(Self::MAX);
        }
        if kind == Kind::Count {
            return number(text).filter(|count| *count > 0);
        }
        // The units are powers of two, in which memory and buffers are counted.
        let unit = text.as_bytes().last();
        let shift = match unit.map(u8::to_ascii_uppercase) {
            Some(b'K') => 10,
            Some(b'M') => 20,
            Some(b'G') => 30,
            _ => return number(text),
        };
        // The unit is one byte.
        number::<Self>(&text[..text.len() - 1])?.checked_mul(1 << shift)
    }
}

impl Value for Duration {
    fn show(&self, _kind: Kind) -> String {
        if *self == Self::MAX { NO_LIMIT.to_owned() } else { format!("{}s", self.as_secs_f64()) }
    }

    fn read(text: &str, kind: Kind) -> Option<Self> {
        if text == NO_LIMIT {
            return (kind == Kind::Time).then_some(Self::MAX);
        }
        let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
        let seconds = match &text[digits.len()..] {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        // As a float, because operators write half a second as 0.5.
        // `parse` would also take a sign and an exponent, which are not part of a time.
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number: f64 = digits.parse().ok().filter(|_| is_plain)?;
        // A time that is too long for the type is an error, and not the longest time, which is written `none`.
        Self::try_from_secs_f64(number * seconds).ok()
    }
}

impl Value for Option<Duration> {
    fn show(&self, kind: Kind) -> String {
        self.unwrap_or(Duration::MAX).show(kind)
    }

    fn read(text: &str, kind: Kind) -> Option<Self> {
        if text == NO_LIMIT { Some(None) } else { Duration::read(text, kind).map(Some) }
    }
}

impl Value for Option<Rate> {
    fn show(&self, _kind: Kind) -> String {
        match self {
            None => NO_LIMIT.to_owned(),
            // The server takes a zero for one.
            Some(Rate { per_second, burst }) => {
                format!("{}/{}", per_second.max(&1), burst.max(&1))
            }
        }
    }

    fn read(text: &str, _kind: Kind) -> Option<Self> {
        if text == NO_LIMIT {
            return Some(None);
        }
        // A single number is both the rate and the burst, as in `Rate::per_second`.
        let (per_second, burst) = text.split_once('/').unwrap_or((text, text));
        let at_least_one = |text| number(text).filter(|number| *number > 0);
        Some(Some(Rate::per_second(at_least_one(per_second)?).burst(at_least_one(burst)?)))
    }
}

/// Reads a number that consists of digits alone (`parse` would also take a sign). None for any other text, and for a number
/// that the type cannot hold.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_its_name_here() {
        let printed = format!("{:#?}", Limits::default());
        // A field of the struct is indented once.
        let fields =
            printed.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
        let fields: Vec<_> = fields.filter_map(|line| line.trim().split_once(": ")).collect();
        let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, Limits::NAMES);
    }

    #[test]
    fn what_is_shown_is_read_back() {
        let unusual = Limits::default()
            .live(usize::MAX)
            .accept_rate(Rate::per_second(3).burst(4))
            .idle(Duration::from_millis(1_500))
            .read(Duration::MAX)
            .request(Duration::from_secs(86_400))
            .drain(Duration::ZERO);
        for limits in [Limits::default(), unusual] {
            let mut read = Limits::default().line_bytes(1).peer_rate(Rate::per_second(9));
            for line in limits.to_string().lines() {
                let (name, value) = line.split_once(' ').unwrap();
                read.set(name, value).unwrap();
            }
            assert_eq!(read, limits);
        }
    }

    #[test]
    fn zeros_that_count_as_one_are_shown_as_one() {
        let limits = Limits::default().live(0).per_peer(0).peer_rate(Rate::per_second(0));
        for (name, shown) in [("live", "1"), ("per_peer", "1"), ("peer_rate", "1/1")] {
            assert_eq!(limits.get(name).as_deref(), Some(shown), "{name}");
        }
    }

    #[test]
    fn values_are_read_with_their_units() {
        let mut limits = Limits::default();
        for (name, value, shown) in [
            ("live", "5", "5"),
            ("line_bytes", "64k", "65536"),
            ("linger_bytes", "1G", "1073741824"),
            ("idle", "500ms", "0.5s"),
            ("idle", "90", "90s"),
            ("read", "2h", "7200s"),
            ("request", "5m", "300s"),
            ("request", "none", "none"),
            ("peer_rate", "10", "10/10"),
            ("peer_rate", "10/50", "10/50"),
        ] {
            limits.set(name, value).unwrap();
            assert_eq!(limits.get(name).unwrap(), shown);
        }
    }

    #[test]
    fn bad_values_change_nothing_and_are_told_with_what_is_allowed() {
        let mut limits = Limits::default();
        for (name, value, allowed) in [
            ("live", "-1", "a number of requests"),
            ("live", "64K", "a number of requests"),
            ("live", "", "a number of requests"),
            ("live", "0", "a number of requests"),
            ("per_peer", "0", "a number of requests"),
            ("handshakes", "0", "a number of requests"),
            ("line_bytes", "99999999999999999999", "a number of bytes"),
            ("line_bytes", "99999999999999G", "a number of bytes"),
            ("line_bytes", "1é", "a number of bytes"),
            ("idle", "-5", "seconds"),
            ("idle", "inf", "seconds"),
            ("idle", "1e9", "seconds"),
            ("idle", "99999999999999999999", "seconds"),
            ("idle", "5 s", "seconds"),
            ("peer_rate", "10/", "requests each second"),
            ("peer_rate", "+10", "requests each second"),
            ("peer_rate", "0", "requests each second"),
            ("accept_rate", "0/0", "requests each second"),
            ("peer_rate", "1/0", "requests each second"),
            (
                "lame_duck",
                "none",
                "seconds (60, 0.5), or a time with its unit (500ms, 60s, 5m, 2h)",
            ),
        ] {
            let error = limits.set(name, value).unwrap_err().to_string();
            let says = format!("the limit {name} cannot be {value:?}: it takes {allowed}");
            assert!(error.starts_with(&says), "{error}");
        }
        assert_eq!(limits, Limits::default());
        let error = limits.set("idel", "5").unwrap_err().to_string();
        assert!(error.contains("no limit \"idel\"; the limits are live, per_peer, "), "{error}");
        assert_eq!(limits.get("idel"), None);
    }
}
