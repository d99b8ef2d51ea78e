//! Row 30: a `Fatal` ends the server.

use std::io;

use socketserver::hooks::Phase;
use socketserver::{
    Fatal, HandlerError, HandlerResult, Inline, StreamRequest, StreamRequestHandler, TcpServer,
};

use super::ended_by;
use crate::support::{connect, inet, read_to_end, soon};

/// An error with a cause.
#[derive(Debug)]
struct Wrapped {
    cause: HandlerError,
}

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something failed")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

#[test]
fn row_030_a_fatal_of_an_inline_handler_ends_serve_forever_with_it() {
    let error = ended_by(Inline, || Fatal::new("out of paper").into());
    assert_eq!(error.as_fatal().unwrap().to_string(), "out of paper");
    assert_eq!(error.to_string(), "the handler stopped the server: out of paper");
}

#[test]
fn row_030_a_fatal_is_found_inside_other_errors() {
    let wrapped = || -> HandlerError {
        let fatal = io::Error::other(Fatal::new("out of ink"));
        Box::new(Wrapped { cause: Box::new(Wrapped { cause: Box::new(fatal) }) })
    };
    let error = ended_by(Inline, wrapped);
    assert_eq!(error.as_fatal().unwrap().to_string(), "out of ink");
}

#[test]
fn row_030_a_fatal_of_setup_and_of_finish_ends_the_server_as_well() {
    struct EndsIn {
        phase: Phase,
    }

    impl EndsIn {
        fn step(&self, phase: Phase) -> HandlerResult {
            if phase == self.phase { Err(Fatal::new(phase.to_string()).into()) } else { Ok(()) }
        }
    }

    impl StreamRequestHandler for EndsIn {
        fn setup(&mut self, _request: &mut StreamRequest) -> HandlerResult {
            self.step(Phase::Setup)
        }

        fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
            self.step(Phase::Handle)
        }

        fn finish(&mut self, _request: &mut StreamRequest) -> HandlerResult {
            self.step(Phase::Finish)
        }
    }

    for phase in [Phase::Setup, Phase::Handle, Phase::Finish] {
        let server = TcpServer::bind("127.0.0.1:0", move || EndsIn { phase }).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        assert_eq!(read_to_end(&mut client), b"");
        let error = soon("the end of the loop", move || server.join()).unwrap_err();
        assert_eq!(error.as_fatal().unwrap().to_string(), phase.to_string());
    }
}
