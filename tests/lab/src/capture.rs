//! Writes packets as a pcap file (draft-ietf-opsawg-pcap), with nanoseconds, as raw IP.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

/// Times in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
const SNAP_LENGTH: u32 = 65_535;
const LINKTYPE_RAW: u32 = 101;

/// A capture being written.
#[derive(Debug)]
pub(crate) struct Capture(BufWriter<File>);

impl Capture {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&MAGIC.to_le_bytes())?;
        for part in VERSION {
            file.write_all(&part.to_le_bytes())?;
        }
        for part in [0, 0, SNAP_LENGTH, LINKTYPE_RAW] {
            file.write_all(&u32::to_le_bytes(part))?;
        }
        file.flush()?;
        Ok(Self(file))
    }

    /// Adds a packet; times count from the lab's start.
    pub(crate) fn write(&mut self, at: Duration, packet: &[u8]) -> io::Result<()> {
        let length = packet.len() as u32;
        for part in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
            self.0.write_all(&part.to_le_bytes())?;
        }
        self.0.write_all(packet)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
