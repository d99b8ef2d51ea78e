//! Several certificates, chosen by the name that a client asks for.

use socketserver::{ThreadingTcpServer, stream_fn};
use std::io::Write;

use super::client::{Client, VERSIONS, localhost, pem};
use crate::support::{inet, read_to_end};

#[test]
fn the_name_chooses_the_certificate_and_the_first_is_for_all_others() {
    let tls = localhost().certificate(pem("other.pem"), pem("other.key")).unwrap();
    let server = ThreadingTcpServer::builder()
        .tls(tls)
        .bind("127.0.0.1:0", stream_fn(|request| Ok(request.write_all(b"hello")?)))
        .unwrap()
        .serve_in_background()
        .unwrap();
    for version in VERSIONS {
        for name in ["localhost", "other.example", "a.wild.example", "127.0.0.1"] {
            let mut client = Client::speaking(&[version]).asking_for(name).connect(inet(&*server));
            client.handshake().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(read_to_end(&mut client), b"hello");
        }
        // The client gets the certificate of localhost, and does not accept it.
        let mut stranger =
            Client::speaking(&[version]).asking_for("third.example").connect(inet(&*server));
        let error = stranger.handshake().unwrap_err().to_string();
        assert!(error.contains("localhost"), "{error}");
    }
}
