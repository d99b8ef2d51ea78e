//! Just enough HTTP for the peers that bring none of their own: heads are read by httparse, and each gets the
//! same answer, with the date of the second.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most headers of a request: more than any client of these loads sends.
const HEADERS: usize = 16;

#[derive(Default)]
pub struct Http {
    second: u64,
    answer: Vec<u8>,
    /// The answers to the requests so far.
    pub out: Vec<u8>,
}

impl Http {
    /// Answers the requests that are whole, into `out`; the beginning of another one stays in `kept`.
    pub fn take(&mut self, kept: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
        self.look_at_the_clock();
        self.out.clear();
        if kept.is_empty() {
            let used = self.answer_all(bytes)?;
            kept.extend_from_slice(&bytes[used..]);
        } else {
            kept.extend_from_slice(bytes);
            let used = self.answer_all(kept)?;
            kept.drain(..used);
        }
        Ok(())
    }

    fn answer_all(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS];
            match httparse::Request::new(&mut headers).parse(&bytes[at..]) {
                Ok(httparse::Status::Complete(used)) => at += used,
                Ok(httparse::Status::Partial) => return Ok(at),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            self.out.extend_from_slice(&self.answer);
        }
    }

    fn look_at_the_clock(&mut self) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        if second != self.second {
            self.second = second;
            let date = httpdate::fmt_http_date(now);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n\
                 Hello, World"
            );
            self.answer = answer.into_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_however_they_are_cut() {
        let requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3);
        for size in 1..requests.len() {
            let (mut http, mut kept, mut answers) = (Http::default(), Vec::new(), 0);
            for piece in requests.chunks(size) {
                http.take(&mut kept, piece).unwrap();
                answers += String::from_utf8_lossy(&http.out).matches("Hello, World").count();
            }
            assert_eq!((answers, kept.len()), (3, 0));
        }
    }
}
