//! A tar archive, read entry by entry from a stream: POSIX ustar and pax, and what GNU tar adds for long names and large sizes.
//!
//! Takes memory for one header and two names, whatever an archive says of itself; what could mean two things (a name or a size
//! that extended headers give twice, a directory with bytes) is refused, since readers that disagree about where an entry ends are
//! a way to smuggle one in. Never writes anything.
//!
//! Sources: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax Interchange Format"; GNU tar's manual, "Basic Tar Format".

use std::io::{self, Read};

use super::ArchiveError;

/// Bytes of a block, of which everything consists.
pub(crate) const BLOCK: usize = 512;
/// Longest name and longest target of a link, in bytes. Those of images have at most 141.
const MAX_NAME_BYTES: usize = 1024;
/// Longest extended header, in bytes.
const MAX_EXTENDED_BYTES: u64 = 64 * 1024;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A file of so many bytes, which are read from the reader before the next entry.
    File(u64),
    /// A directory.
    Directory,
    /// Another name for an entry, which is given as seen from the archive's root.
    Link(String),
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name, without `.` and empty parts. Never absolute, never with `..`.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: EntryKind,
}

/// Reads entries. Between [`TarReader::next_entry`] and the next it is the bytes of the entry's file.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    source: R,
    /// Bytes of the current entry that were not read.
    left: u64,
    /// Bytes behind them up to the next block.
    padding: u64,
    ended: bool,
}

/// What extended headers say of the entry behind them.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, ended: false }
    }

    /// The next entry, after what was not read of the last.
    ///
    /// # Errors
    /// When the archive is malformed or cut off, or has what no archive of images has.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_rest()?;
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                self.ended = true;
                return Ok(None);
            };
            let size = number(&header[124..136]).ok_or_else(|| ArchiveError::malformed("the size of an entry is no number"))?;
            match header[156] {
                b'L' => set(&mut extended.name, until_nul(&self.metadata(size, MAX_NAME_BYTES as u64 + 1)?).to_vec())?,
                b'K' => set(&mut extended.target, until_nul(&self.metadata(size, MAX_NAME_BYTES as u64 + 1)?).to_vec())?,
                b'x' => {
                    let records = self.metadata(size, MAX_EXTENDED_BYTES)?;
                    extended.read(&records)?;
                }
                // Of all entries: remarks, as git makes them. What would change entries is not made for images.
                b'g' => {
                    let records = self.metadata(size, MAX_EXTENDED_BYTES)?;
                    let mut global = Extended::default();
                    global.read(&records)?;
                    if global.name.is_some() || global.target.is_some() || global.size.is_some() {
                        return Err(ArchiveError::malformed("a global header names or sizes all entries"));
                    }
                }
                kind => return self.entry(&header, kind, size, extended).map(Some),
            }
        }
    }

    /// Reads what follows the last entry, so that what the archive is compressed with can say whether all of it was right.
    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        io::copy(&mut self.source, &mut io::sink()).map_err(ArchiveError::read("the end of the archive")).map(drop)
    }

    fn entry(&mut self, header: &[u8; BLOCK], kind: u8, size: u64, extended: Extended) -> Result<Entry, ArchiveError> {
        let name = extended.name.unwrap_or_else(|| plain_name(header));
        let shown = || String::from_utf8_lossy(&name).chars().take(200).collect::<String>();
        let refuse = |why| Err(ArchiveError::Refused { name: shown(), why });
        let size = extended.size.unwrap_or(size);
        let is_directory = kind == b'5' || (kind == 0 && name.ends_with(b"/"));
        let target = extended.target.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let clean = match normal(&name) {
            Ok(clean) => clean,
            Err(why) => return refuse(why),
        };
        let kind = match kind {
            _ if is_directory => EntryKind::Directory,
            0 | b'0' | b'7' => EntryKind::File(size),
            b'1' => match normal(&target) {
                Ok(target) => EntryKind::Link(target),
                Err(_) => return refuse("it is a link out of the archive"),
            },
            b'2' => match beside(&clean, &target) {
                Some(target) => EntryKind::Link(target),
                None => return refuse("it is a link out of the archive"),
            },
            b'3' | b'4' | b'6' => return refuse("it is a device or a pipe"),
            b'S' => return refuse("it has holes: pack it without --sparse"),
            _ => return refuse("it is of a kind that archives of images do not have"),
        };
        match kind {
            EntryKind::File(size) => {
                if clean.is_empty() {
                    return refuse("a file has a name");
                }
                self.left = size;
                self.padding = size.next_multiple_of_block() - size;
            }
            // What readers make of their bytes differs.
            _ if size > 0 => return refuse("it has bytes, and is no file"),
            _ => {}
        }
        Ok(Entry { name: clean, kind })
    }

    /// The next header, or nothing at the end: two empty blocks, one, or none (as some writers leave it).
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut header = [0; BLOCK];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(ArchiveError::Truncated("a header of the tar archive ends early")),
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        check_sum(&header)?;
        Ok(Some(header))
    }

    /// The bytes of an extended header.
    fn metadata(&mut self, size: u64, most: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > most {
            return Err(ArchiveError::OverLimit(format!("an extended header of {size} bytes, and at most {most} are read")));
        }
        let mut bytes = vec![0; usize::try_from(size).expect("at most the limit")];
        if self.fill(&mut bytes)? < bytes.len() {
            return Err(ArchiveError::Truncated("an extended header ends early"));
        }
        self.padding = size.next_multiple_of_block() - size;
        self.skip_rest()?;
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        let rest = self.left.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.source).take(rest), &mut io::sink()).map_err(ArchiveError::read("the archive"))?;
        (self.left, self.padding) = (0, 0);
        if skipped < rest { Err(ArchiveError::Truncated("an entry of the tar archive ends early")) } else { Ok(()) }
    }

    /// Fills the buffer, or as much of it as there is.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut read = 0;
        while read < buffer.len() {
            match self.source.read(&mut buffer[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::read("the archive")(error)),
            }
        }
        Ok(read)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let read = self.source.read(&mut buffer[..length])?;
        if read == 0 {
            return Err(io::Error::other(ArchiveError::Truncated("an entry of the tar archive ends early")));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl Extended {
    /// Records of the form `length key=value\n`.
    fn read(&mut self, mut records: &[u8]) -> Result<(), ArchiveError> {
        let malformed = || ArchiveError::malformed("a pax record is none");
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or_else(malformed)?;
            match key {
                b"path" => set(&mut self.name, name(value)?)?,
                b"linkpath" => set(&mut self.target, name(value)?)?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(digits).ok_or_else(malformed)?;
                    set(&mut self.size, size as u64)?;
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(ArchiveError::malformed("an entry has holes: pack it without --sparse"));
                }
                _ => {}
            }
            records = rest;
        }
        Ok(())
    }
}

/// The key and value of the first record, and the records behind it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok().and_then(digits)?;
    if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
        return None;
    }
    let record = &records[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

/// What a header says of what follows it, for who passes bytes on and judges none.
#[derive(Debug)]
pub(crate) struct Stated {
    /// The kind of the entry.
    pub(crate) kind: u8,
    /// Bytes behind the header, padding not counted.
    pub(crate) size: u64,
    /// Whether it is a directory, by its kind or, as in old archives, by its name.
    pub(crate) is_directory: bool,
}

/// Reads a block that is a header beyond doubt.
pub(crate) fn stated(block: &[u8; BLOCK]) -> Option<Stated> {
    if !is_header(block) {
        return None;
    }
    let is_directory = block[156] == b'5' || until_nul(&block[..100]).ends_with(b"/");
    Some(Stated { kind: block[156], size: number(&block[124..136])?, is_directory })
}

/// The size that an extended header gives, if it gives one. `None` where it is malformed, or says that an entry has holes.
pub(crate) fn stated_size(mut records: &[u8]) -> Option<Option<u64>> {
    let mut size = None;
    while !records.is_empty() {
        let (key, value, rest) = record(records)?;
        match key {
            b"size" => size = Some(std::str::from_utf8(value).ok().and_then(digits)? as u64),
            key if key.starts_with(b"GNU.sparse") => return None,
            _ => {}
        }
        records = rest;
    }
    Some(size)
}

/// Sets what may be said once.
fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), ArchiveError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ArchiveError::malformed("an entry is named or sized twice")),
    }
}

fn name(value: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    match value.len() {
        0..=MAX_NAME_BYTES => Ok(value.to_vec()),
        length => Err(ArchiveError::OverLimit(format!("a name of {length} bytes, and at most {MAX_NAME_BYTES} are read"))),
    }
}

/// A decimal number with nothing about it: `parse` takes a sign.
fn digits(text: &str) -> Option<usize> {
    let all = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    if all { text.parse().ok() } else { None }
}

/// Octal digits between spaces and NULs, or GNU's 95 bits behind a set first bit.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7f);
        return field[1..].iter().try_fold(first, |all, byte| all.checked_mul(256).map(|all| all | u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    let octal = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok().filter(|_| octal) }
}

/// The header's own sum, with its field taken for spaces. Some writers took bytes for signed.
fn check_sum(header: &[u8; BLOCK]) -> Result<(), ArchiveError> {
    let bytes = || header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    let stated = number(&header[148..156]);
    if stated == Some(unsigned) || stated.is_some_and(|stated| i64::try_from(stated) == Ok(signed)) {
        return Ok(());
    }
    Err(ArchiveError::malformed("the sum of a header of the tar archive is wrong"))
}

/// Whether these first bytes are the header of a tar archive.
pub(super) fn is_header(block: &[u8]) -> bool {
    block.first_chunk::<BLOCK>().is_some_and(|header| header[0] != 0 && check_sum(header).is_ok())
}

/// The name that the header itself has. GNU's headers have other things where ustar has the first part of a name.
fn plain_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A name without `.` and empty parts, or why it is none.
pub(super) fn normal(name: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    if text.starts_with('/') {
        return Err("its name is absolute");
    }
    if text.contains('\0') {
        return Err("its name has a NUL");
    }
    let parts: Vec<_> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") { Err("its name leads out of the archive") } else { Ok(parts.join("/")) }
}

/// What a symbolic link beside `name` leads to, seen from the root; nothing when it leads out.
fn beside(name: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok().filter(|target| !target.starts_with('/') && !target.contains('\0'))?;
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

trait Blocks {
    /// The end of the block that so many bytes reach into.
    fn next_multiple_of_block(self) -> Self;
}

impl Blocks for u64 {
    fn next_multiple_of_block(self) -> Self {
        self.checked_next_multiple_of(BLOCK as Self).unwrap_or(self)
    }
}
