//! Beginnings of other protocols, which are refused on the tutorial's wire by their form.

#[path = "../../src/foreign.rs"]
mod foreign;

use foreign::kind_of;
use proptest::prelude::*;

/// Names of methods of every kind. No list could have all of them.
const METHODS: [&str; 16] = [
    "GET", "post", "PROPFIND", "X", "x", "M-SEARCH", "QUERY", "ls", "Get", "reboot", "CONNECT",
    "a.b", "$x", "`x`", "0", "TRACE",
];

#[test]
fn a_request_of_any_method_and_any_version_is_no_command() {
    for method in METHODS {
        for target in ["/", "/;id", "*", "host:443", "http://host/a", "/a?b=c&d#e"] {
            for version in ["1.1", "1.0", "2", "2.0", "3", "0.9", "9.9", ""] {
                for blank in [" ", "  ", "\t"] {
                    let line = format!("{method}{blank}{target}{blank}HTTP/{version}");
                    for end in ["", "\r\n", "\n", "\r", "\r\nHost: x\r\n\r\nx=\nid\n"] {
                        for before in ["", "\r\n", "\n\n  ", "\t"] {
                            let sent = format!("{before}{line}{end}");
                            assert!(kind_of(sent.as_bytes()).is_some(), "{sent:?}");
                            let low = sent.replace("HTTP", "http");
                            assert!(kind_of(low.as_bytes()).is_some(), "{low:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn other_beginnings_of_other_protocols_are_no_commands() {
    let long_path = [b"post /".as_slice(), &[b'a'; 5_000]].concat();
    for sent in [
        // Requests without a version, or in pieces.
        &b"GET /"[..],
        b"GET /;id",
        b"QUERY http://host/",
        b"GET /a b HTTP/1.1\r\n",
        b"/ HTTP/1.1\r\nHost: x\r\n",
        b" HTTP/1.1\r\nHost: x\r\n",
        &long_path,
        // HTTP/2, and protocols that are made like HTTP.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI",
        b"PRI * ",
        b"OPTIONS rtsp://host/a RTSP/1.0\r\n",
        b"options sip:a SIP/2.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        // The hello of TLS, its first bytes alone, the hello of SSL 2, and TURN.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\nid\n",
        b"\x16\x03\x03",
        b"\x16",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\nid\n",
        b"\x00\x03\x00\x08\x21\x12\xa4\x42\nid\n",
        b"id\0",
    ] {
        assert!(kind_of(sent).is_some(), "{:?}", String::from_utf8_lossy(sent));
    }
}

#[test]
fn commands_are_commands() {
    let long_echo = [b"echo ".as_slice(), &[b'a'; 60_000]].concat();
    for sent in [
        &b"ls"[..],
        b"ls /",
        b"ls / /tmp",
        b"cat /etc/passwd",
        b"id > /tmp/a",
        b"LANG=C /bin/ls",
        b"! /bin/false",
        b". /etc/profile",
        b"[ -e / ]",
        b"curl -s http://host/a",
        b"curl http://host/a",
        b"cp a dir/1.0",
        b"echo PRI",
        b"PRINTENV=1 env",
        b"printf 'GET / HTTP/1.0\r\n\r\n' | nc host 80",
        b"nc host 80 <<E\nGET / HTTP/1.0\n\nE\n",
        b"printf \x1b[1m; echo \xff\xfe",
        "echo 你好".as_bytes(),
        b"\n",
        b"",
        &long_echo,
    ] {
        assert_eq!(kind_of(sent), None, "{:?}", String::from_utf8_lossy(sent));
    }
}

proptest! {
    #[test]
    fn no_method_that_a_page_may_choose_makes_a_command_of_its_request(
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}",
        target in "/[!-~]{0,60}",
        rest in "[ -~\r\n]{0,200}",
    ) {
        let sent = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{rest}");
        prop_assert!(kind_of(sent.as_bytes()).is_some());
    }
}
