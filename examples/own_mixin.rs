//! A mixin of one's own, made of two pools: a thread is reserved for 127.0.0.2, and all other clients share another.
//! Try it: `nc 127.0.0.1 9999` twice, of which the second is turned away; then `nc -s 127.0.0.2 127.0.0.1 9999`.

use std::{env, io::Write, thread, time::Instant};

use socketserver::mixin::{Job, Mixin, Pool, WhenFull};
use socketserver::{TcpServer, stream_fn};

struct Lanes([Pool; 2]);

impl Mixin for Lanes {
    // The accept loop calls this. Any thread may run, refuse or release the job later, but one of them must.
    fn process_request(&self, job: Job) {
        let is_reserved = job.peer().to_string().starts_with("127.0.0.2:");
        self.0[usize::from(!is_reserved)].process_request(job);
    }
    fn service_actions(&self) {
        self.0.iter().for_each(Mixin::service_actions);
    }
    fn server_close(&self, deadline: Instant) {
        self.0.iter().for_each(|lane| lane.server_close(deadline));
    }
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    // A full lane refuses: if its job waited, the loop would wait too, and the other lane would get nothing.
    let lane = |name| Pool::new(1).queue(0).when_full(WhenFull::Refuse).thread_name(name);
    let echo = stream_fn(|request| {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            writeln!(request, "{}: {text}", thread::current().name().unwrap_or("?"))?;
        }
        Ok(())
    });
    let builder = TcpServer::builder().mixin(Lanes([lane("reserved"), lane("common")]));
    let server = builder.bind(address, echo)?;
    println!("listening on {}", server.server_address());
    server.run().map(|report| eprintln!("{report}"))
}
