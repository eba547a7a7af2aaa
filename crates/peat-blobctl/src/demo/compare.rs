//! Compares what arrived with what was sent, byte by byte, in bounded memory.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use peat_blobcore::Sent;

use crate::failure::{Failure, Kind};

/// Bytes that are read of each file at a time.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Compares every file that was sent; returns how many bytes that were.
pub(super) fn directories(sent: &Sent, source: &Path, inbox: &Path) -> Result<u64, Failure> {
    let mut total = 0;
    for file in &sent.files {
        // Where a name is unsafe, the file goes by its distribution's id; the demo says so rather than guess.
        let path = file.relative_path().map_err(|why| differs(format!("{}: {why}", crate::show::path(&file.path))))?;
        let original = source.join(std::ffi::OsStr::from_bytes(&file.path));
        total += files(&original, &inbox.join(path.as_str()))?;
    }
    Ok(total)
}

fn files(original: &Path, arrived: &Path) -> Result<u64, Failure> {
    let open = |path: &Path| File::open(path).map_err(Failure::io(format!("cannot open {}", path.display())));
    let (mut left, mut right) = (open(original)?, open(arrived)?);
    let (mut left_bytes, mut right_bytes) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut compared = 0;
    loop {
        let left_read = fill(&mut left, &mut left_bytes, original)?;
        let right_read = fill(&mut right, &mut right_bytes, arrived)?;
        if left_bytes[..left_read] != right_bytes[..right_read] {
            return Err(differs(format!("{} differs from {}", arrived.display(), original.display())));
        }
        if left_read == 0 {
            return Ok(compared);
        }
        compared += left_read as u64;
    }
}

fn differs(message: String) -> Failure {
    Failure::new(Kind::INTEGRITY, message)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8], path: &Path) -> Result<usize, Failure> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..]).map_err(Failure::io(format!("cannot read {}", path.display())))? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_more_or_another_byte_is_a_difference() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).expect("written");
            path
        };
        let original = path("original", b"abc");
        assert_eq!(files(&original, &path("equal", b"abc")).expect("equal"), 3);
        for (name, content) in [("longer", &b"abcd"[..]), ("shorter", b"ab"), ("other", b"abd"), ("empty", b"")] {
            assert!(matches!(files(&original, &path(name, content)), Err(failure) if failure.kind == Kind::INTEGRITY), "{name}");
        }
    }
}
