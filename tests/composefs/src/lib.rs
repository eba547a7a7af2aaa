//! What both sides of the test stand on: a layer of all sorts of files, in a tar archive.

use peat_blobcore::model::Sha256Digest;
use peat_blobcore::oci::Digest;
use sha2::{Digest as _, Sha256};

/// A tar archive with empty, small and large files, a directory, and a link.
#[must_use]
pub fn tar() -> Vec<u8> {
    let mut tar = Vec::new();
    // Without it composefs makes no image.
    add(&mut tar, "usr/", b'5', b"");
    add(&mut tar, "dir/", b'5', b"");
    for (name, size) in [("empty", 0), ("one", 1), ("small", 4095), ("block", 4096), ("large", 3 << 20), ("again", 4096)] {
        add(&mut tar, &format!("dir/{name}"), b'0', &content(size));
    }
    add(&mut tar, "link", b'2', b"");
    tar.extend([0; 1024]);
    tar
}

/// Bytes that depend on their number alone.
#[must_use]
pub fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + size) as u8).collect()
}

/// What a layer is called.
#[must_use]
pub fn diff_id(tar: &[u8]) -> Digest {
    Digest::Sha256(Sha256Digest::from_bytes(Sha256::digest(tar).into()))
}

fn add(tar: &mut Vec<u8>, name: &str, kind: u8, content: &[u8]) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
