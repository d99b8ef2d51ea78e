//! A protocol that begins in the clear and goes on in TLS: STARTTLS (RFC 3207), in as much of SMTP as is needed to get there.
//!
//! ```text
//! cargo run -p starttls -- cert.pem key.pem
//! openssl s_client -connect 127.0.0.1:2525 -starttls smtp -CAfile cert.pem -quiet -crlf
//! ```
//!
//! `examples/README.md` shows, under TLS, how to make a certificate to try it with.

use std::env;
use std::io::Write;

use socketserver::tls::Tls;
use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler, ThreadingTcpServer};

struct Mail {
    tls: Tls,
}

impl StreamRequestHandler for Mail {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        write!(request, "220 ready\r\n")?;
        let mut line = String::new();
        while let Some(command) = request.next_line(&mut line)? {
            let verb = command.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            let answer = match (verb.as_str(), request.tls()) {
                ("EHLO", None) => "250-hello\r\n250 STARTTLS",
                ("EHLO", Some(_)) => "250 hello again, unheard by others",
                ("QUIT", _) => return Ok(write!(request, "221 goodbye\r\n")?),
                ("STARTTLS", None) => {
                    write!(request, "220 go ahead\r\n")?;
                    // Commands after STARTTLS in the same packet came in the clear, and anybody may have sent them. They
                    // are taken for the handshake, which fails, so they never become commands of the session.
                    request.start_tls(&self.tls)?;
                    continue;
                }
                (_, None) => "530 first STARTTLS",
                ("MAIL" | "NOOP" | "RSET", Some(_)) => "250 ok",
                (_, Some(_)) => "502 not here",
            };
            write!(request, "{answer}\r\n")?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let (Some(certificate), Some(key)) = (args.next(), args.next()) else {
        return Err("usage: starttls CERTIFICATE KEY [ADDRESS]".into());
    };
    let tls = Tls::from_pem(certificate, key)?;
    let address = args.next().unwrap_or("127.0.0.1:2525".to_owned());
    let server = ThreadingTcpServer::bind(address, move || Mail { tls: tls.clone() })?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
