//! The process is killed wherever durable state changes, and again while it recovers.
#![cfg(feature = "crash-points")]

use std::process::Command;

use super::*;
use crate::content::{Cutter, Pin, Recipe};

const SIZE: u64 = 1_500_000;
const BLOCK: u64 = 1 << 18;

fn source_of(dir: &Path, name: &str) -> Content {
    let clock = Arc::new(TestClock(AtomicU64::new(1)));
    Content::open(&dir.join(name), Options { quota: None, reserve: 0 }, clock).unwrap()
}

/// Another version of what is kept.
fn newer() -> Vec<u8> {
    [bytes(1, SIZE as usize), bytes(4, 20_000)].concat()
}

/// Puts the other version together by a recipe, from wherever an earlier run left it.
fn draft(store: &Content) {
    let newer = newer();
    let (hash, size) = (hash_of(&newer), newer.len() as u64);
    let mut cutter = Cutter::default();
    cutter.push(&newer);
    let recipe = Recipe::of_chunks(cutter.finish(), size).unwrap();
    assert!(store.sketch(u64::MAX).unwrap());
    let assembly = store.assemble(&hash, size).unwrap();
    if let Some(draft) = assembly.draft() {
        if draft.kept_recipe().is_none() {
            draft.keep_recipe(&recipe).unwrap();
        }
        let mut at = 0;
        for (chunk, have) in recipe.chunks().iter().zip(draft.look(recipe.chunks()).unwrap()) {
            let end = at + usize::from(chunk.length);
            if !have {
                draft.write(at as u64, &newer[at..end]).unwrap();
            }
            at = end;
        }
        assert!(draft.complete().unwrap());
    }
    assembly.finish().unwrap();
}

/// Everything that the store does, in an order that can begin again after any end. What crosses is noted in `crossed`.
fn work(dir: &Path) {
    let source = source_of(dir, "source");
    let store = source_of(dir, "store");
    let kept = bytes(1, SIZE as usize);
    fs::write(dir.join("kept"), &kept).unwrap();
    store
        .pin(
            &Pin::User("kept".into()),
            &[hash_of(&kept), hash_of(&newer()), hash_of(b"small"), hash_of(&bytes(2, SIZE as usize))],
        )
        .unwrap();
    store.ingest_path(&dir.join("kept"), &mut go_on).unwrap();
    store.ingest_bytes(b"small").unwrap();
    store.ingest_bytes(&bytes(3, SIZE as usize)).unwrap();
    store.gc_all().unwrap();
    draft(&store);

    let fetched = hash_of(&bytes(2, SIZE as usize));
    let assembly = store.assemble(&fetched, SIZE).unwrap();
    let note = |bytes: u64| {
        let noted = fs::read_to_string(dir.join("crossed")).map_or(0, |text| text.parse().unwrap());
        fs::write(dir.join("crossed"), (noted + bytes).to_string()).unwrap();
    };
    while let Some(taken) = assembly.take(BLOCK) {
        let range = taken.range();
        note(range.end - range.start);
        assembly.write_block(range.clone(), &source.encode_block(&fetched, range).unwrap()).unwrap();
        assembly.sync().unwrap();
    }
    assembly.finish().unwrap();

    if !dir.join("damage was done").exists() {
        flip(&store.0.layout.blob(&fetched), 5);
        fs::write(dir.join("damage was done"), "").unwrap();
    }
    let _ = read_all(&store, &fetched);
    note(fetch(&source, &store, &fetched, SIZE).unwrap().1);
    store.close().unwrap();
}

/// Run by the test below in a process of its own, which is killed.
#[test]
#[ignore = "the other half of a_kill_anywhere_loses_nothing"]
fn works() {
    let dir = PathBuf::from(std::env::var_os("PEAT_BLOB_CRASH_DIR").unwrap());
    work(&dir);
}

/// Runs the work in a child that is killed at `point`; whether it was.
fn killed_at(dir: &Path, point: &str) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["content::tests::crash::works", "--exact", "--ignored", "--nocapture"])
        .env("PEAT_BLOB_CRASH_DIR", dir)
        .env("PEAT_BLOB_CRASH_AT", point)
        .output()
        .unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(6);
    assert!(aborted || output.status.success(), "{point}: {}", String::from_utf8_lossy(&output.stderr));
    aborted
}

fn new_dir() -> tempfile::TempDir {
    let dir = fast_dir();
    let source = source_of(dir.path(), "source");
    source.ingest_bytes(&bytes(2, SIZE as usize)).unwrap();
    source.close().unwrap();
    dir
}

fn assert_all_is_well(dir: &Path, point: &str) {
    work(dir);
    let crossed: u64 = fs::read_to_string(dir.join("crossed")).unwrap().parse().unwrap();
    // A kill while it heals loses the note of that.
    let again = crossed.saturating_sub(SIZE + 16_384);
    assert!(again <= BLOCK, "{point}: {again} bytes crossed again");
    let store = source_of(dir, "store");
    let report = store.check(&mut go_on).unwrap();
    assert!(report.is_clean(), "{point}: {report:?}");
    for data in [bytes(1, SIZE as usize), newer(), bytes(2, SIZE as usize), b"small".to_vec()] {
        assert_eq!(read_all(&store, &hash_of(&data)).unwrap(), data, "{point}");
    }
    assert_eq!(fs::read_dir(dir.join("store/assemblies")).unwrap().count(), 0, "{point}");
    assert_eq!(fs::read_dir(dir.join("store/tmp")).unwrap().count(), 0, "{point}");
}

#[test]
fn a_kill_anywhere_loses_nothing() {
    for point in crate::fault::POINTS.map(|(name, _)| name).iter().filter(|name| name.starts_with("content.")) {
        let mut reached = 0;
        for count in 1..=6 {
            let dir = new_dir();
            if !killed_at(dir.path(), &format!("{point}:{count}")) {
                break;
            }
            reached = count;
            assert_all_is_well(dir.path(), point);
        }
        // The end of a recovery is reached only when there is something to recover from.
        assert!(reached > 0 || *point == "content.open.recovered", "{point} was never reached");
    }
}

#[test]
fn a_kill_during_the_recovery_from_a_kill_loses_nothing() {
    for first in
        ["content.commit.moved:2", "content.commit.renamed:2", "content.assembly.marked:4", "content.assembly.salvaged:1"]
    {
        for second in ["content.open.marked", "content.open.recovered", "content.commit.synced", "content.commit.moved"] {
            let dir = new_dir();
            // The first opening of a new store is the source's; the second is the one that recovers.
            let second = if second.contains("open") { format!("{second}:1") } else { second.to_owned() };
            assert!(killed_at(dir.path(), first), "{first}");
            killed_at(dir.path(), &second);
            killed_at(dir.path(), &second);
            assert_all_is_well(dir.path(), &format!("{first}, then {second}"));
        }
    }
}
