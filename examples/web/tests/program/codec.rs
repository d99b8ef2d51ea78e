//! The decoder by itself: with any bytes, cut anywhere.

use proptest::prelude::*;

#[path = "../../src/protocol/mod.rs"]
#[allow(dead_code, reason = "the server uses all of it")]
mod protocol;

use protocol::{Decoder, Step};

/// All results of the decoder, as text, when the bytes are cut at these places.
fn told(bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut decoder = Decoder::default();
    let mut told = Vec::new();
    let (mut begin, mut end) = (0, 0);
    let mut ends = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect::<Vec<_>>();
    ends.sort_unstable();
    ends.push(bytes.len());
    for next in ends {
        end = end.max(next);
        loop {
            match decoder.step(&bytes[begin..end]) {
                Step::More => break,
                Step::Continue => told.push("continue".to_owned()),
                Step::Request(head, used) => {
                    assert!(used > 0 && used <= end - begin, "more than there is was used");
                    told.push(format!("{head:?} of {used}"));
                    begin += used;
                }
                Step::Refused(refusal) => {
                    told.push(format!("{refusal:?}"));
                    return told;
                }
            }
        }
    }
    told
}

/// A target, and a valid request for it.
fn good() -> impl Strategy<Value = (String, Vec<u8>)> {
    let header = "[A-Za-z-]{1,12}: [ -~]{0,20}".prop_filter("framing is chosen apart", |header| {
        let name = header.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !["host", "expect", "content-length", "transfer-encoding", "connection"].contains(&&*name)
    });
    let body = prop_oneof![
        Just(None),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(|body| Some((body, 0))),
        (proptest::collection::vec(any::<u8>(), 0..200), 1_usize..50).prop_map(Some),
    ];
    let headers = proptest::collection::vec(header, 0..12);
    ("/[a-z0-9/%?._~-]{0,30}", headers, body, any::<bool>(), any::<bool>()).prop_map(
        |(target, headers, body, is_head, crlf)| {
            let newline = if crlf { "\r\n" } else { "\n" };
            let method = if is_head { "HEAD" } else { "GET" };
            let mut head = format!("{method} {target} HTTP/1.1{newline}Host: here{newline}");
            for header in headers {
                head += &format!("{header}{newline}");
            }
            let mut tail = Vec::new();
            match body {
                None => {}
                Some((body, 0)) => {
                    head += &format!("Content-Length: {}{newline}", body.len());
                    tail = body;
                }
                Some((body, size)) => {
                    head += &format!("Transfer-Encoding: chunked{newline}");
                    for chunk in body.chunks(size) {
                        tail.extend(format!("{:X}\r\n", chunk.len()).bytes());
                        tail.extend(chunk);
                        tail.extend(b"\r\n");
                    }
                    tail.extend(b"0\r\nTrailer: x\r\n\r\n");
                }
            }
            (target, [head.as_bytes(), newline.as_bytes(), &tail].concat())
        },
    )
}

/// Pieces of requests, good and bad ones, in any order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let fixed = |bytes: &'static [u8]| Just(bytes.to_vec());
    let piece = prop_oneof![
        fixed(b"GET / HTTP/1.1\r\nHost: here\r\n"),
        fixed(b"HEAD /x HTTP/1.0\r\n"),
        fixed(b"POST / HTTP/2.0\r\n"),
        fixed(b"GET / HTTP/1.1 \n"),
        fixed(b"Content-Length: 5\r\n"),
        fixed(b"Content-Length: 50\r\n"),
        fixed(b"Transfer-Encoding: chunked\r\n"),
        fixed(b"Expect: 100-continue\r\n"),
        fixed(b"Connection: close\r\n"),
        fixed(b"\r\n"),
        fixed(b"\n"),
        fixed(b"\r"),
        fixed(b"5\r\nhello\r\n"),
        fixed(b"5;x=\n\r\nhello\r\n"),
        fixed(b"0\r\n\r\n"),
        fixed(b"fffffffffffffffff\r\n"),
        fixed(b": "),
        (0_usize..3).prop_map(|count| vec![b'a'; count * 33_000]),
        (99_usize..102).prop_map(|count| b"A: b\r\n".repeat(count)),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn requests_one_after_the_other_are_read_as_they_were_written(
        requests in proptest::collection::vec(good(), 0..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let told = told(&bytes, &cuts);
        prop_assert_eq!(told.len(), requests.len());
        for (told, (target, bytes)) in told.iter().zip(&requests) {
            prop_assert!(told.contains(&format!("target: {target:?}")), "{} for {}", told, target);
            prop_assert!(told.ends_with(&format!(" of {}", bytes.len())), "{}", told);
        }
    }

    #[test]
    fn the_same_bytes_give_the_same_answers_however_they_are_cut(
        bytes in pieces(),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        prop_assert_eq!(told(&bytes, &cuts), told(&bytes, &[]));
    }

    #[test]
    fn a_chunked_body_of_anything_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let head = b"GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n";
        told(&[&head[..], &bytes].concat(), &[]);
    }
}

#[test]
fn a_short_request_is_the_same_in_every_two_pieces() {
    let requests = [
        &b"GET /a HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab"[..],
        b"\r\nGET /a HTTP/1.0\nA:b\n\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\nA: b\r\n\r\n",
    ];
    let all = requests.concat();
    let whole = told(&all, &[]);
    assert_eq!(whole.len(), 4);
    for cut in 0..=all.len() {
        assert_eq!(told(&all, &[cut]), whole);
    }
    // The bytes also come one by one.
    assert_eq!(told(&all, &(0..all.len()).collect::<Vec<_>>()), whole);
}
