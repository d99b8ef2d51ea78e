//! A chat: each line that a client types is sent to all others. An outbox sends to a connection from any thread and never
//! waits, so a client that reads nothing delays no other.
//!
//! Try it in two terminals: `nc 127.0.0.1 9999`.

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, Mutex};

use socketserver::{Outbox, StreamRequest, ThreadingTcpServer, stream_fn};

type Room = Arc<Mutex<HashMap<u64, Outbox>>>;

fn tell_others(room: &Room, me: &StreamRequest, text: &str) {
    for (id, outbox) in room.lock().unwrap().iter() {
        // A full outbox belongs to a client that does not read.
        if *id != me.id() && outbox.send(format!("{}: {text}\n", me.client_address())).is_err() {
            outbox.close();
        }
    }
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    let room = Room::default();
    let chat = stream_fn(move |request| {
        let mut line = String::new();
        room.lock().unwrap().insert(request.id(), request.outbox()?);
        // An error, like the end of input, means that the client leaves.
        while let Ok(Some(text)) = request.next_line(&mut line) {
            tell_others(&room, request, text);
        }
        room.lock().unwrap().remove(&request.id());
        Ok(())
    });
    let server = ThreadingTcpServer::bind(address, chat)?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
