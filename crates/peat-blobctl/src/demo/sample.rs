//! A directory worth sending: odd names, empty files, small ones and large ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Small files in one directory.
const SMALL_FILES: u64 = 200;
/// Bytes of the largest file.
const LARGE_BYTES: usize = 64 * 1024 * 1024;

/// Makes the directory; returns its path.
pub(super) fn make(root: &Path) -> io::Result<PathBuf> {
    let mut bytes = Bytes(0x9e37_79b9_7f4a_7c15);
    let mut write = |path: &str, size: usize| {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, bytes.take(size))
    };
    write("empty", 0)?;
    write("orders/-rf", 17)?;
    write("orders/zwölf Boxkämpfer 12.txt", 4096)?;
    write("orders/線 が 切れた\n.md", 16 * 1024)?;
    write("maps/sector 7/tile.bin", 16 * 1024 + 1)?;
    write("maps/overview.bin", 5 * 1024 * 1024 + 123)?;
    write("images/bundle.tar", LARGE_BYTES)?;
    for number in 0..SMALL_FILES {
        write(&format!("sensors/{:02}/reading-{number:03}.json", number % 10), 200 + (number as usize * 37) % 4000)?;
    }
    Ok(root.to_owned())
}

/// Bytes that no disk or link can compress (SplitMix64; Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014).
struct Bytes(u64);

impl Bytes {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((word ^ (word >> 31)).to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
