//! On a file system that can share extents a blob takes its space once, however often it is taken in and delivered.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use peat_blob_tests::filesystem::FileSystem;
use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Content, Exported, Options};

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

/// Bytes in use on the file system, as `df` counts them.
fn used(path: &Path) -> u64 {
    let output = std::process::Command::new("df").args(["--output=used", "-B1"]).arg(path).output().expect("df runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a figure")
}
