//! What comes in from this machine.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::*;
use crate::ErrorKind;
use crate::content::Batch;
use crate::model::Sha256Digest;

#[test]
fn whatever_is_taken_in_reads_back_equal_under_both_hashes_after_a_restart() {
    let mut store = Store::new();
    let mut blobs = Vec::new();
    for size in [0, 1, 4096, 16_384, 16_385, 1 << 20, (1 << 20) + 1, 5 * (1 << 20) + 12_345] {
        let data = bytes(3, size);
        let path = store.path("source");
        fs::write(&path, &data).unwrap();
        let ingested = store.ingest_path(&path, &mut go_on).unwrap();
        assert_eq!(ingested.hash, hash_of(&data));
        assert_eq!(ingested.sha256, Sha256Digest::from_bytes(Sha256::digest(&data).into()));
        assert_eq!(ingested.size, size as u64);
        assert_eq!(store.ingest_bytes(&data).unwrap(), ingested, "the same from memory");
        assert_eq!(spool(&store, &data).unwrap(), ingested, "the same in pieces");
        blobs.push((ingested, data));
    }
    for close in [true, false] {
        if close {
            store.close();
            store.open();
        } else {
            store.crash();
        }
        for (blob, data) in &blobs {
            assert_eq!(store.status(&blob.hash).unwrap(), BlobStatus::Held { size: blob.size });
            assert_eq!(store.digest(&blob.sha256).unwrap(), Some(blob.hash));
            assert_eq!(store.sha256_of(&blob.hash).unwrap(), Some(blob.sha256));
            assert_eq!(&read_all(&store, &blob.hash).unwrap(), data);
        }
        assert!(store.check(&mut go_on).unwrap().is_clean());
    }
}

/// Takes bytes in piece by piece.
fn spool(store: &Store, data: &[u8]) -> Result<Ingested, ContentError> {
    let mut spool = store.spool()?;
    data.chunks(100_003).try_for_each(|piece| spool.write(piece))?;
    let mut batch = store.batch();
    let ingested = batch.add_spooled(spool.end())?;
    batch.commit()?;
    Ok(ingested)
}

#[test]
fn what_comes_in_pieces_is_kept_only_once_a_batch_has_committed_it_and_never_without_room() {
    let store = Store::new();
    let mut broken_off = store.spool().unwrap();
    broken_off.write(&bytes(1, 100_000)).unwrap();
    assert_eq!(store.files().len(), 1, "it is in the store already, once");
    drop(broken_off);
    let mut ended = store.spool().unwrap();
    ended.write(&bytes(2, 100_000)).unwrap();
    store.batch().add_spooled(ended.end()).unwrap();
    assert_eq!((store.files(), store.usage().unwrap().blobs), (vec![], 0));
    let full = Store::with(Options { quota: None, reserve: u64::MAX });
    assert_eq!(spool(&full, &bytes(3, 100_000)).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(full.files(), Vec::<PathBuf>::new());
}

#[test]
fn the_same_bytes_are_kept_once_and_small_ones_without_a_file() {
    let store = Store::new();
    let (small, large) = (bytes(1, 16_384), bytes(1, 16_385));
    for _ in 0..3 {
        store.ingest_bytes(&small).unwrap();
        store.ingest_bytes(&large).unwrap();
    }
    assert_eq!(store.files().len(), 2, "one blob and its outboard: {:?}", store.files());
    let usage = store.usage().unwrap();
    assert_eq!((usage.blobs, usage.bytes, usage.assembly_bytes), (2, 16_384 + 16_385, 0));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused_and_leaves_nothing() {
    let store = Store::new();
    let path = store.path("source");
    let touches: [(&str, &dyn Fn()); 4] = [
        ("appended", &|| File::options().append(true).open(&path).unwrap().write_all(b"x").unwrap()),
        ("overwritten", &|| File::options().write(true).open(&path).unwrap().write_all(b"x").unwrap()),
        ("truncated", &|| File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap()),
        ("replaced", &|| {
            fs::write(store.path("other"), b"x").unwrap();
            fs::rename(store.path("other"), &path).unwrap();
        }),
    ];
    for (what, touch) in touches {
        let data = bytes(4, 3 << 20);
        fs::write(&path, &data).unwrap();
        let mut done = false;
        let mut progress = |_| {
            if !std::mem::replace(&mut done, true) {
                touch();
            }
            ControlFlow::Continue(())
        };
        let error = store.ingest_path(&path, &mut progress).expect_err(what);
        assert!(matches!(error, ContentError::Changed(_)), "{what}: {error}");
        assert!(error.hint().is_some());
        fs::remove_file(&path).unwrap();
        assert!(store.files().is_empty(), "{what}: {:?}", store.files());
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_others_of_its_batch_are_not_affected() {
    let store = Store::new();
    let good = store.path("good");
    fs::write(&good, bytes(5, 100_000)).unwrap();
    assert!(Command::new("mkfifo").arg(store.path("pipe")).status().unwrap().success());
    let mut batch: Batch = store.batch();
    let vanished = batch.add_path(&store.path("nowhere"), &mut go_on).unwrap_err();
    assert!(matches!(vanished, ContentError::Vanished(_)) && vanished.kind() == ErrorKind::NotFound, "{vanished}");
    for path in [store.path("blobs"), store.path("pipe")] {
        let error = batch.add_path(&path, &mut go_on).unwrap_err();
        assert!(matches!(error, ContentError::NotAFile(_)), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }
    let beneath = batch.add_path(&good.join("beneath"), &mut go_on).unwrap_err();
    assert!(matches!(beneath, ContentError::Unreadable { .. }) && beneath.hint().is_some(), "{beneath}");
    let vanishes = store.path("vanishes");
    fs::write(&vanishes, b"soon gone").unwrap();
    let mut remove = |_| {
        fs::remove_file(&vanishes).unwrap();
        ControlFlow::Continue(())
    };
    let vanished = batch.add_path(&vanishes, &mut remove).unwrap_err();
    assert!(matches!(vanished, ContentError::Vanished(_) | ContentError::Changed(_)), "{vanished}");
    let ingested = batch.add_path(&good, &mut go_on).unwrap();
    assert!(!held(&store, &ingested.hash), "nothing is held before the commit");
    batch.commit().unwrap();
    assert!(held(&store, &ingested.hash));
}

#[test]
fn a_dropped_batch_and_a_stopped_ingest_leave_nothing() {
    let store = Store::new();
    let mut batch = store.batch();
    let dropped = batch.add_bytes(&bytes(6, 50_000)).unwrap();
    drop(batch);
    assert!(!held(&store, &dropped.hash));
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(source.path(), bytes(7, 3 << 20)).unwrap();
    let error = store.ingest_path(source.path(), &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, ContentError::Stopped));
    assert!(store.files().is_empty(), "{:?}", store.files());
}

#[test]
fn thousands_of_small_files_cost_few_commits_and_no_files() {
    let store = Store::new();
    let mut batch = store.batch();
    let hashes: Vec<_> = (0..5000).map(|seed| batch.add_bytes(&bytes(seed, 4096)).unwrap().hash).collect();
    batch.commit().unwrap();
    assert!(hashes.iter().all(|hash| held(&store, hash)));
    assert!(store.files().is_empty());
}

#[test]
fn many_threads_that_take_in_at_once_all_get_what_they_were_promised() {
    let store = Store::new();
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let store = &store;
            scope.spawn(move || {
                for seed in 0..6 {
                    // Half of them are the same in all threads.
                    let seed = if seed % 2 == 0 { seed } else { 100 * thread + seed };
                    let data = bytes(seed, if seed % 3 == 0 { 4000 } else { 40_000 });
                    let blob = store.ingest_bytes(&data).unwrap();
                    assert_eq!(read_all(store, &blob.hash).unwrap(), data);
                }
            });
        }
    });
    assert!(store.check(&mut go_on).unwrap().is_clean());
}

#[test]
fn a_store_without_room_says_so_and_leaves_nothing_half_made() {
    let store = Store::with(Options { quota: None, reserve: u64::MAX / 2 });
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(source.path(), bytes(8, 100_000)).unwrap();
    let error = store.ingest_path(source.path(), &mut go_on).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.hint().is_some());
    assert!(store.files().is_empty());
}

#[test]
fn an_export_is_the_blob_whole() {
    let store = Store::new();
    for size in [0, 5000, 2_500_000] {
        let data = bytes(9, size);
        let hash = store.ingest_bytes(&data).unwrap().hash;
        let path = store.path("exported");
        let file = File::options().write(true).create(true).truncate(true).open(&path).unwrap();
        store.export(&hash, &file, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), data);
    }
}

#[test]
fn an_export_without_verification_tells_what_the_file_has_so_far() {
    let store = Store::new();
    for size in [0, 5000, 20_500_000] {
        let data = bytes(9, size);
        let hash = store.ingest_bytes(&data).unwrap().hash;
        let path = store.path("exported");
        let file = File::options().write(true).create(true).truncate(true).open(&path).unwrap();
        let mut told = Vec::new();
        let mut written = |end| {
            assert_eq!(fs::read(&path)?, data[..end as usize]);
            told.push(end);
            Ok(())
        };
        store.export_unverified(&hash, &file, &path, &mut written).unwrap();
        assert_eq!(fs::read(&path).unwrap(), data);
        assert!(told.is_sorted() && (size < 20_000 || told.last() == Some(&(size as u64))), "{told:?}");
    }
}

/// Run by the test below in a process of its own.
#[test]
#[ignore = "the other half of memory_stays_bounded_while_a_large_file_is_taken_in"]
fn takes_in_a_large_file_and_prints_its_peak_memory() {
    let store = Store::new();
    let source = tempfile::tempfile().unwrap();
    source.set_len(300 << 20).unwrap();
    store.ingest_file(&source, Path::new("sparse"), &mut go_on).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("\n{peak}");
}

#[test]
fn memory_stays_bounded_while_a_large_file_is_taken_in() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["content::tests::ingest::takes_in_a_large_file_and_prints_its_peak_memory", "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let peak = output.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect(&output);
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 64 * 1024, "{kib} KiB for a file of 300 MiB");
}
