//! Writes tar archives: ustar headers with what POSIX adds for long names and large sizes, the same bytes for the same entries.
//! Never says who wrote it, or when.

use std::io::{self, Read, Write};

use super::tar::BLOCK;

/// What a header has room for.
const MAX_NAME_BYTES: usize = 100;
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// A tar archive that is written.
#[derive(Debug)]
pub(super) struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes a directory.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(&format!("{name}/"), 0, b'5', 0o755)
    }

    /// Writes a file of as many bytes as said.
    pub(super) fn file(&mut self, name: &str, size: u64, mut bytes: impl Read) -> io::Result<()> {
        self.header(name, size, b'0', 0o644)?;
        let copied = io::copy(&mut (&mut bytes).take(size), &mut self.out)?;
        if copied < size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} has {copied} bytes, not {size}")));
        }
        self.pad(size)
    }

    /// Writes the end of the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, name: &str, size: u64, kind: u8, mode: u32) -> io::Result<()> {
        let mut records = Vec::new();
        if name.len() > MAX_NAME_BYTES {
            record(&mut records, "path", name);
        }
        if size > MAX_OCTAL_SIZE {
            record(&mut records, "size", &size.to_string());
        }
        if !records.is_empty() {
            self.plain_header("pax", records.len() as u64, b'x', 0o644)?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.plain_header(name, size, kind, mode)
    }

    fn plain_header(&mut self, name: &str, size: u64, kind: u8, mode: u32) -> io::Result<()> {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name.as_bytes()[..name.len().min(MAX_NAME_BYTES)]);
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", if size > MAX_OCTAL_SIZE { 0 } else { size }).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.out.write_all(&header)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
        if over == 0 { Ok(()) } else { self.out.write_all(&[0; BLOCK][over..]) }
    }
}

/// Writes a record of an extended header, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}
