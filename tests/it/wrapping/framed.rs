//! A wrapper that stands for TLS: a handshake, records that have a length and are ciphered, and an end that is
//! announced.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use socketserver::request::Stream;

const HELLO: &[u8; 4] = b"KEY1";
const WELCOME: &[u8; 2] = b"OK";
/// The answer to a client that speaks another protocol.
pub const ALERT: &[u8; 6] = b"ALERT!";
/// The most bytes of one record.
const RECORD: usize = 16 * 1024;

/// Both sides of the wrapper, in blocking style. A call that an error has ended can be made again.
pub struct Framed<S> {
    inner: S,
    /// Bytes of a record that has not come whole.
    input: Vec<u8>,
    /// Bytes of a whole record; those from `at` on are unread.
    plain: Vec<u8>,
    at: usize,
    /// Bytes that wait to be sent.
    output: Vec<u8>,
    ended: bool,
}

impl<S: Read + Write> Framed<S> {
    fn new(inner: S) -> Self {
        let (input, plain, output) = (Vec::new(), Vec::new(), Vec::new());
        Self { inner, input, plain, at: 0, output, ended: false }
    }

    /// The server's side.
    pub fn accept(mut inner: S) -> io::Result<Self> {
        let mut hello = [0; HELLO.len()];
        inner.read_exact(&mut hello)?;
        if hello != *HELLO {
            inner.write_all(ALERT)?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no hello"));
        }
        inner.write_all(WELCOME)?;
        Ok(Self::new(inner))
    }

    /// The client's side.
    pub fn connect(mut inner: S) -> Self {
        inner.write_all(HELLO).unwrap();
        let mut welcome = [0; WELCOME.len()];
        inner.read_exact(&mut welcome).unwrap();
        assert_eq!(welcome, *WELCOME);
        Self::new(inner)
    }

    fn put(&mut self, plain: &[u8]) {
        let length = u16::try_from(plain.len()).unwrap();
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend(plain.iter().map(|byte| byte ^ 0x55));
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let count = self.inner.write(&self.output)?;
            self.output.drain(..count);
        }
        Ok(())
    }

    /// Announces the end.
    pub fn say_end(&mut self) -> io::Result<()> {
        self.put(&[]);
        self.send()
    }
}

impl<S: Read + Write> Read for Framed<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() && !self.ended {
            if let Some((length, rest)) = self.input.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length > RECORD {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "no record"));
                }
                if rest.len() >= length {
                    self.plain = rest[..length].iter().map(|byte| byte ^ 0x55).collect();
                    (self.at, self.ended) = (0, length == 0);
                    self.input.drain(..2 + length);
                    continue;
                }
            }
            let mut more = [0; 4_096];
            match self.inner.read(&mut more)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&more[..count]),
            }
        }
        let count = (&self.plain[self.at..]).read(buf)?;
        self.at += count;
        Ok(count)
    }
}

impl<S: Read + Write> Write for Framed<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send()?;
        let count = buf.len().min(RECORD);
        self.put(&buf[..count]);
        // The bytes are taken, whatever becomes of them.
        let _ = self.send();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.inner.flush()
    }
}

impl<S: Stream> Stream for Framed<S> {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.inner.set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        let said = if how == Shutdown::Read { Ok(()) } else { self.say_end() };
        self.inner.shutdown(how).and(said)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fileno()
    }
}

/// The client's side, in as many layers as the server has, over a connection that can also be used bare.
pub struct Client {
    pub bare: TcpStream,
    layers: Layers,
}

enum Layers {
    None(TcpStream),
    One(Framed<TcpStream>),
    Two(Box<Framed<Framed<TcpStream>>>),
    #[cfg(feature = "tls")]
    Tls(Box<crate::tls::client::TlsClient>),
}

impl Client {
    pub fn new(bare: TcpStream, layers: usize) -> Self {
        let stream = bare.try_clone().unwrap();
        let layers = match layers {
            0 => Layers::None(stream),
            1 => Layers::One(Framed::connect(stream)),
            _ => Layers::Two(Box::new(Framed::connect(Framed::connect(stream)))),
        };
        Self { bare, layers }
    }

    /// Over TLS, after its handshake.
    #[cfg(feature = "tls")]
    pub fn over_tls(bare: TcpStream) -> Self {
        let mut client = crate::tls::client::Client::new().over(bare.try_clone().unwrap());
        client.handshake().unwrap();
        Self { bare, layers: Layers::Tls(Box::new(client)) }
    }

    /// The record of some bytes, which the caller sends; `None` without TLS.
    #[cfg(feature = "tls")]
    pub fn tls_record(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let Layers::Tls(client) = &mut self.layers else { return None };
        let mut record = Vec::new();
        client.stream.conn.writer().write_all(bytes).unwrap();
        client.stream.conn.write_tls(&mut record).unwrap();
        Some(record)
    }

    /// Returns `None`: there is no TLS.
    #[cfg(not(feature = "tls"))]
    pub fn tls_record(&mut self, _bytes: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// Announces the end in all layers. The server may already close when the outermost one has announced it.
    pub fn end(&mut self) {
        let _ = match &mut self.layers {
            Layers::None(_) => Ok(()),
            Layers::One(framed) => framed.say_end(),
            Layers::Two(framed) => framed.say_end().and_then(|()| framed.inner.say_end()),
            #[cfg(feature = "tls")]
            Layers::Tls(client) => {
                client.stream.conn.send_close_notify();
                client.stream.flush()
            }
        };
        let _ = self.bare.shutdown(Shutdown::Write);
    }
}

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.layers {
            Layers::None(stream) => stream.read(buf),
            Layers::One(stream) => stream.read(buf),
            Layers::Two(stream) => stream.read(buf),
            #[cfg(feature = "tls")]
            Layers::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Client {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.layers {
            Layers::None(stream) => stream.write(buf),
            Layers::One(stream) => stream.write(buf),
            Layers::Two(stream) => stream.write(buf),
            #[cfg(feature = "tls")]
            Layers::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.layers {
            Layers::None(stream) => stream.flush(),
            Layers::One(stream) => stream.flush(),
            Layers::Two(stream) => stream.flush(),
            #[cfg(feature = "tls")]
            Layers::Tls(stream) => stream.flush(),
        }
    }
}
