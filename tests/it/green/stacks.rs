//! The stacks of handlers: their size, and what becomes of a handler that needs more.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;

use socketserver::{
    Green, HandlerResult, StreamRequest, StreamRequestHandler, TcpServer, stream_fn,
};

use crate::child::{child, is_child, writes_to_stderr};
use crate::handlers::Echo;
use crate::support::{connect, exchange, inet, read_to_end};

/// Recurses as often as its client says.
struct Deep;

#[inline(never)]
fn deep(levels: usize) -> usize {
    let block = std::hint::black_box([levels; 64]);
    if levels == 0 { block[0] } else { deep(levels - 1) + block[3] }
}

impl StreamRequestHandler for Deep {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let sum = deep(text.parse()?);
            writeln!(request, "{sum}")?;
        }
        Ok(())
    }
}

#[test]
fn a_handler_that_needs_more_stack_is_named_and_ends_the_process() {
    if is_child() {
        let green = Green::new().workers(1).stack_bytes(100_000);
        let server = TcpServer::builder().mixin(green).bind("127.0.0.1:0", || Deep).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        assert_eq!(exchange(&mut client, "10"), "55\n");
        writeln!(client, "1000000000").unwrap();
        read_to_end(&mut client);
        return;
    }
    let (output, writes) = writes_to_stderr(child(
        module_path!(),
        "a_handler_that_needs_more_stack_is_named_and_ends_the_process",
    ));
    assert_eq!(output.status.signal(), Some(6), "{}: {writes:?}", output.status);
    let [message] = &*writes else { panic!("{writes:?}") };
    for part in ["stack overflow in it::green::stacks::Deep", " 102400 bytes", "Green::stack_bytes"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_by_bind() {
    for bytes in [0, 1, 65_535, usize::MAX / 2, usize::MAX] {
        let server = TcpServer::builder().mixin(Green::new().stack_bytes(bytes));
        let error = server.bind("127.0.0.1:0", || Echo).unwrap_err().to_string();
        assert!(error.contains(&format!("{bytes} bytes (Green::stack_bytes)")), "{error}");
        assert!(error.contains("between 65536 and "), "{error}");
    }
}

/// In every build the smallest stack has room for the deepest calls of the library, which are those of a panic with a
/// backtrace.
#[test]
fn every_size_serves_and_survives_a_panic_with_a_backtrace() {
    const NAME: &str = "every_size_serves_and_survives_a_panic_with_a_backtrace";
    if !is_child() {
        let output = child(module_path!(), NAME).env("RUST_BACKTRACE", "full").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}", output.status);
        return;
    }
    for bytes in [65_536, 65_537, 99_999, 1 << 17, 1 << 20, 1 << 24] {
        let server = TcpServer::builder().mixin(Green::new().workers(1).stack_bytes(bytes));
        let panics = stream_fn(|request: &mut StreamRequest| {
            let mut line = String::new();
            match request.next_line(&mut line)? {
                Some("panic") => panic!("asked for"),
                _ => writeln!(request, "served")?,
            }
            Ok(())
        });
        let server = server.bind("127.0.0.1:0", panics).unwrap().serve_in_background().unwrap();
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "served\n", "{bytes}");
        let mut client = connect(inet(&*server));
        writeln!(client, "panic").unwrap();
        assert!(read_to_end(&mut client).is_empty());
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "served\n", "{bytes}");
    }
}
