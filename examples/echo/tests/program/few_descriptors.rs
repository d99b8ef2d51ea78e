//! A server that may have hardly any descriptors serves a request, or ends at once and says why.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use test_support::process::Process;
use test_support::program::{MIXINS, assert_ends};
use test_support::{eventually, folder};

use super::ECHO;

/// Whether a request is answered.
fn answers(path: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"hello\n")?;
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).map(|()| answer)
    };
    ask().is_ok_and(|answer: [u8; 6]| answer == *b"hello\n")
}

#[test]
fn a_server_with_hardly_any_descriptors_serves_or_says_why_it_does_not() {
    let folder = folder();
    let path = folder.path().join("s");
    let bind = format!("unix:{}", path.display());
    for mixin in MIXINS {
        let mut served = 0;
        for most in 7..28 {
            let mut command = Command::new("sh");
            command.args(["-c", "ulimit -n $0; exec \"$@\"", &most.to_string()]).arg(ECHO.path());
            command.args(["serve", "--bind", &bind, "--mixin", mixin, "--mode", "line"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let server = Process::start(&mut command);
            let is_served = Cell::new(false);
            eventually("it serves, or ends", || {
                is_served.set(answers(&path));
                is_served.get() || server.has_ended()
            });
            if is_served.get() {
                served += 1;
                server.send_signal(libc::SIGTERM);
                assert_ends(&server.end(), 0);
                continue;
            }
            let ended = server.end();
            assert_ends(&ended, 1);
            let why = ended.err.lines().last().unwrap_or_default();
            let is_told = why.contains("descriptors") || why.contains("Too many open files");
            assert!(is_told && why.starts_with("error: "), "{mixin} {most}: {ended:?}");
            assert!(!ended.err.contains("handover"), "nobody has asked for one: {ended:?}");
        }
        assert!(served > 4, "{mixin}: {served}");
    }
}
