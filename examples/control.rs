//! A server with a control socket, through which the user that runs it lists and ends requests, changes limits, and stops it.
//! Try it: `nc 127.0.0.1 9999`; in another terminal, in the same folder, `nc -U control.sock`; type `live`, `close 1`, `drain`.

use std::{env, io::Write, sync::Arc};

use socketserver::{HandlerError, HandlerResult, ServerContext, SocketOptions, StreamRequest};
use socketserver::{ThreadingTcpServer, ThreadingUnixStreamServer, stream_fn};

fn answer(request: &mut StreamRequest, to: impl Fn(&str) -> String) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        request.write_all(to(text).as_bytes())?;
    }
    Ok(())
}

fn obey(server: &ServerContext, command: &str) -> Result<String, HandlerError> {
    Ok(match command.split(' ').collect::<Vec<_>>()[..] {
        ["live"] => server.live().iter().map(|request| format!("{request}\n")).collect(),
        ["close", id] => format!("closed: {}\n", server.close_live(id.parse()?)),
        ["limits"] => server.limits().to_string(),
        ["limit", name, value] => server.set_limit(name, value).map(|()| "changed\n".to_owned())?,
        ["drain"] => (server.shutdown_handle().shutdown(), "it stops\n".to_owned()).1,
        _ => "live, close ID, limits, limit NAME VALUE, drain\n".to_owned(),
    })
}

fn main() -> socketserver::Result<()> {
    let arg = |number, default: &str| env::args().nth(number).unwrap_or(default.to_owned());
    let echo = stream_fn(|request| answer(request, |text| format!("{text}\n")));
    let server = Arc::new(ThreadingTcpServer::bind(arg(1, "127.0.0.1:9999"), echo)?);
    let run = Arc::clone(&server);
    let obey = move |text: &str| obey(run.context(), text).unwrap_or_else(|why| format!("{why}\n"));
    let options = SocketOptions::default().unix_mode(0o600).unlink_on_close(true);
    let control = ThreadingUnixStreamServer::builder().socket_options(options);
    let obeys = stream_fn(move |request| answer(request, &obey));
    let _control = control.bind(arg(2, "control.sock"), obeys)?.serve_in_background()?;
    println!("listening on {}", server.server_address());
    server.run().map(|report| println!("{report}"))
}
