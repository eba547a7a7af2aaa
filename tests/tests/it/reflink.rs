//! On a file system that can share extents a blob takes its space once, however often it is taken in and delivered.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use peat_blob_tests::filesystem::FileSystem;
use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Content, Exported, Options};
use peat_blobcore::handoff::{CacheOptions, LayerCache, LayerSource};
use peat_blobcore::model::Sha256Digest;
use peat_blobcore::oci::Digest;
use sha2::Digest as _;

#[test]
fn ingest_and_export_share_extents_where_the_file_system_can() {
    let Some(xfs) = FileSystem::xfs(512) else { return };
    let options = Options { reserve: 0, ..Options::default() };
    let content = Content::open(&xfs.path().join("content"), options, Arc::new(SystemClock)).expect("opens");
    let source = File::options().create_new(true).read(true).write(true).open(xfs.path().join("source")).expect("created");
    let chunk: Vec<u8> = (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for mebibyte in 0..100 {
        source.write_all_at(&chunk, mebibyte << 20).expect("written");
    }
    source.sync_all().expect("synced");
    let before = used(xfs.path());
    let path = xfs.path().join("source");
    let ingested = content.ingest_file(&source, &path, &mut |_| ControlFlow::Continue(())).expect("ingested");
    for copy in 0..3 {
        let path = xfs.path().join(format!("copy-{copy}"));
        let copy = File::options().create_new(true).read(true).write(true).open(&path).expect("created");
        assert_eq!(content.export(&ingested.hash, &copy, &path).expect("exported"), Exported::Reflinked);
        copy.sync_all().expect("synced");
        assert!(std::fs::read(&path).expect("readable").chunks(1 << 20).all(|mebibyte| mebibyte == chunk));
    }
    let grown = used(xfs.path()).saturating_sub(before);
    assert!(grown < 16 << 20, "four more names of 100 MiB took {grown} bytes");
    content.close().expect("closes");
}

#[test]
fn objects_of_a_plain_layer_share_its_blocks_where_its_files_begin_with_one() {
    let Some(xfs) = FileSystem::xfs(512) else { return };
    let entry = |name: &str, content: &[u8]| {
        let mut entry = vec![0; 512];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        entry[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        entry[156] = b'0';
        entry[148..156].fill(b' ');
        let sum: u32 = entry.iter().map(|byte| u32::from(*byte)).sum();
        entry[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        entry.extend(content);
        entry.resize(entry.len().next_multiple_of(512), 0);
        entry
    };
    // With their headers these come to whole blocks, so that each begins with one, as the first does.
    let mut tar = entry("first", &[1; 3000]);
    for file in 0..40_u32 {
        let bytes = (0..(1 << 20) + 3584).map(|at: u32| ((at ^ file).wrapping_mul(2_654_435_761) >> 24) as u8);
        tar.extend(entry(&file.to_string(), &bytes.collect::<Vec<_>>()));
    }
    let path = xfs.path().join("layer");
    std::fs::write(&path, &tar).expect("written");
    let file = File::open(&path).expect("it is there");
    file.sync_all().expect("synced");
    let diff_id = Digest::Sha256(Sha256Digest::from_bytes(sha2::Sha256::digest(&tar).into()));
    let grown = |shared: bool| {
        let before = used(xfs.path());
        let dir = xfs.path().join(format!("cache-{shared}"));
        let options = CacheOptions { reserve: 0, ..CacheOptions::default() };
        let cache = LayerCache::open(&dir, options, Arc::new(SystemClock)).expect("a cache");
        let source = || Ok(LayerSource { tar: Box::new(&*tar), file: shared.then_some(&file) });
        let layer = cache.layer(&diff_id, source).expect("split");
        let mut out = Vec::new();
        layer.copy_to(&mut out).expect("whole");
        assert!(out == tar);
        rustix::fs::syncfs(&file).expect("synced");
        used(xfs.path()).saturating_sub(before)
    };
    assert!(grown(false) >= 40 << 20);
    assert!(grown(true) < 4 << 20);
}

/// Bytes in use on the file system, as `df` counts them.
fn used(path: &Path) -> u64 {
    let output = std::process::Command::new("df").args(["--output=used", "-B1"]).arg(path).output().expect("df runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a figure")
}
