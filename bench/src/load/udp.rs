//! Sockets that each keep some datagrams outstanding. The load sends and receives in batches, so that
//! the server is the limit.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::session::{Session, TURN, Tally};
use crate::sys::{Batch, Epoll, Event, READABLE, events};

/// Outstanding datagrams without an answer count as lost after this time.
const LOST: Duration = Duration::from_millis(200);

pub struct Udp {
    epoll: Epoll,
    events: Vec<Event>,
    batch: Batch,
    window: usize,
    flows: Vec<Flow>,
    looked: Instant,
}

struct Flow {
    socket: UdpSocket,
    outstanding: usize,
    /// Grows with each loss, so that a late answer is told apart from one that is waited for.
    generation: u8,
    moved: Instant,
}

impl Udp {
    pub fn new(address: SocketAddr, sockets: usize, window: usize) -> io::Result<Self> {
        let (epoll, now) = (Epoll::new()?, Instant::now());
        let mut flows = Vec::with_capacity(sockets);
        for token in 0..sockets {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, READABLE, token)?;
            flows.push(Flow { socket, outstanding: 0, generation: 0, moved: now });
        }
        let (events, batch) = (events(), Batch::new());
        let mut load = Self { epoll, events, batch, window, flows, looked: now };
        for flow in &mut load.flows {
            flow.send(&mut load.batch, window)?;
        }
        Ok(load)
    }

    /// Counts missing answers as lost, and sends anew.
    fn look(&mut self, now: Instant, tally: &mut Tally) -> io::Result<()> {
        self.looked = now;
        for flow in &mut self.flows {
            if now - flow.moved > LOST {
                tally.lose(flow.outstanding as u64);
                (flow.outstanding, flow.moved) = (0, now);
                flow.generation = flow.generation.wrapping_add(1);
                flow.send(&mut self.batch, self.window)?;
            }
        }
        Ok(())
    }
}

impl Flow {
    fn send(&mut self, batch: &mut Batch, count: usize) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        for place in 0..count {
            batch.put(place, &[self.generation; 64]);
        }
        self.outstanding += match batch.send(&self.socket, count) {
            // Datagrams that the socket does not accept now are sent after the next wait.
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        Ok(())
    }

    /// Receives available datagrams, up to a batch, and returns how many of them were outstanding.
    fn receive(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let count = match batch.receive(&self.socket, false, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            got => got?,
        };
        let expected = [self.generation; 64];
        let good = (0..count).filter(|&place| batch.packet(place) == expected).count();
        let good = good.min(self.outstanding);
        self.outstanding -= good;
        Ok(good)
    }
}

impl Session for Udp {
    fn turn(&mut self, tally: &mut Tally) -> io::Result<()> {
        let ready = self.epoll.wait(&mut self.events, Some(TURN))?;
        let now = Instant::now();
        for event in ready {
            let flow = &mut self.flows[event.u64 as usize];
            let good = flow.receive(&mut self.batch)?;
            if good > 0 {
                flow.moved = now;
                tally.add(good as u64);
                let room = self.window - flow.outstanding;
                flow.send(&mut self.batch, good.min(room))?;
            }
        }
        if now - self.looked >= TURN {
            self.look(now, tally)?;
        }
        // A load without losses reports that there were none.
        tally.lose(0);
        Ok(())
    }
}
