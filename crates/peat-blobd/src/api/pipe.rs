//! Between streams of the API and threads of the library that read or write bytes: whoever is slow makes the other wait.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

/// Bytes of one message.
pub(super) const CHUNK: usize = 256 * 1024;
/// Messages between a stream and the thread that reads or writes.
pub(super) const WAITING: usize = 4;

/// The way out of a thread that writes. Who stops reading makes it fail.
pub(super) struct Outgoing(mpsc::Sender<Vec<u8>>);

impl Outgoing {
    /// The way to these messages; what is written comes together in them.
    pub(super) fn new(sender: mpsc::Sender<Vec<u8>>) -> io::BufWriter<Self> {
        io::BufWriter::with_capacity(CHUNK, Self(sender))
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        self.0.blocking_send(chunk.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The way into a thread that reads; its end is the end of the stream.
pub(super) struct Incoming {
    receiver: mpsc::Receiver<Vec<u8>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl Incoming {
    /// What these messages bring.
    pub(super) fn new(receiver: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { receiver, chunk: io::Cursor::default() }
    }
}

impl Read for Incoming {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(bytes)?;
            if read > 0 || bytes.is_empty() {
                return Ok(read);
            }
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = io::Cursor::new(chunk),
                None => return Ok(0),
            }
        }
    }
}
