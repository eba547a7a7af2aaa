//! Blobs that come in pieces.

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::content::{Assembly, GROUP_BYTES};

fn write(assembly: &Assembly, from: &Content, range: Range<u64>) {
    assembly.write_block(range.clone(), &from.encode_block(&assembly.hash(), range).unwrap()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_order_with_any_interruptions_ends_whole_and_loses_nothing_verified(
        groups in 0_u64..90,
        rest in 0_u64..=GROUP_BYTES,
        blocks in prop::collection::vec((0_u64..90, 1_u64..=64, 0_u8..8, any::<usize>()), 1..30),
    ) {
        let source = Store::new();
        let mut store = Store::new();
        let size = groups * GROUP_BYTES + rest;
        let data = bytes(20, size as usize);
        let hash = source.ingest_bytes(&data).unwrap().hash;
        let mut assembly = store.assemble(&hash, size).unwrap();
        let count = size.div_ceil(GROUP_BYTES);
        for (start, length, action, at) in blocks {
            if count == 0 {
                break;
            }
            let start = start % count;
            let range = start * GROUP_BYTES..((start + length) * GROUP_BYTES).min(size);
            let mut encoded = source.encode_block(&hash, range.clone()).unwrap();
            let before = assembly.held_ranges();
            match action {
                0 => {
                    let at = at % encoded.len();
                    encoded[at] ^= 0x80;
                    let refused = assembly.write_block(range, &encoded);
                    prop_assert!(matches!(refused, Err(ContentError::Corrupt(_))));
                    prop_assert_eq!(before, assembly.held_ranges());
                }
                1 => {
                    drop(assembly);
                    store.crash();
                    assembly = store.assemble(&hash, size).unwrap();
                    if size > GROUP_BYTES {
                        prop_assert_eq!(before, assembly.held_ranges());
                    }
                }
                2 => assembly.keep_up().unwrap(),
                _ => {
                    assembly.write_block(range.clone(), &encoded).unwrap();
                    prop_assert!(assembly.held_ranges().iter().any(|held| held.start <= range.start && range.end <= held.end));
                }
            }
        }
        drop(assembly);
        let (ingested, _) = fetch(&source, &store, &hash, size).unwrap();
        prop_assert_eq!(ingested, source.ingest_bytes(&data).unwrap());
        prop_assert_eq!(read_all(&store, &hash).unwrap(), data);
        prop_assert!(store.check(&mut go_on).unwrap().is_clean());
        prop_assert_eq!(store.files().len(), if size > GROUP_BYTES { 2 } else { 0 });
    }
}

#[test]
fn a_killed_download_continues_exactly_where_it_was() {
    let (source, mut store) = (Store::new(), Store::new());
    let size = 5_000_000;
    let hash = source.ingest_bytes(&bytes(21, size as usize)).unwrap().hash;
    write(&store.assemble(&hash, size).unwrap(), &source, 0..1 << 20);
    store.crash();
    assert_eq!(store.status(&hash).unwrap(), BlobStatus::Partial { size, held: 1 << 20 });
    write(&store.assemble(&hash, size).unwrap(), &source, 2 << 20..3 << 20);
    store.crash();
    assert_eq!(fetch(&source, &store, &hash, size).unwrap().1, size - (2 << 20));
}

#[test]
fn what_the_bitmap_claims_counts_only_if_the_bytes_are_right() {
    let (source, mut store) = (Store::new(), Store::new());
    let size = 3_000_000;
    let hash = source.ingest_bytes(&bytes(22, size as usize)).unwrap().hash;
    write(&store.assemble(&hash, size).unwrap(), &source, 0..1 << 20);
    store.content = None;
    let path = |part| store.dir.path().join(format!("assemblies/{hash}-{size}.{part}"));
    flip(&path("data"), 100_000);
    fs::write(path("bitmap"), [0xff; 23]).unwrap();
    store.open();
    let assembly = store.assemble(&hash, size).unwrap();
    assert_eq!(assembly.held_ranges(), [0..6 * GROUP_BYTES, 7 * GROUP_BYTES..1 << 20]);
    drop(assembly);
    fetch(&source, &store, &hash, size).unwrap();
    assert_eq!(read_all(&store, &hash).unwrap(), bytes(22, size as usize));
}

#[test]
fn wrong_blocks_are_refused_whatever_is_wrong_with_them() {
    let (source, store) = (Store::new(), Store::new());
    let size = 200_000;
    let hash = source.ingest_bytes(&bytes(23, size as usize)).unwrap().hash;
    let assembly = store.assemble(&hash, size).unwrap();
    let range = 16_384..65_536;
    let encoded = source.encode_block(&hash, range.clone()).unwrap();
    let other = source.encode_block(&hash, 65_536..114_688).unwrap();
    let longer = [encoded.clone(), vec![0]].concat();
    for wrong in [&encoded[..encoded.len() - 1], &longer, &other, &[], &[0; 100]] {
        assert!(matches!(assembly.write_block(range.clone(), wrong), Err(ContentError::Corrupt(_))));
    }
    for bad in [
        0..0,
        1..16_384,
        0..100,
        196_608..200_001,
        0..u64::MAX,
        u64::MAX - 1..u64::MAX,
        Range { start: 65_536, end: 16_384 },
        16_384..16_384,
    ] {
        assert!(matches!(assembly.write_block(bad.clone(), &encoded), Err(ContentError::BadRange { .. })), "{bad:?}");
        assert!(matches!(source.encode_block(&hash, bad.clone()), Err(ContentError::BadRange { .. })), "{bad:?}");
    }
    assert_eq!(assembly.held(), 0);
    assembly.write_block(range, &encoded).unwrap();
    assert_eq!(assembly.held(), 49_152);
    assert!(matches!(assembly.finish(), Err(ContentError::Incomplete { missing: 150_848, .. })));
}

#[test]
fn a_lie_about_the_size_fails_cleanly_and_does_not_stand_in_the_way_of_the_truth() {
    let (source, store) = (Store::new(), Store::new());
    for size in [0_u64, 10, 16_384, 100_000, 3_000_000] {
        let data = bytes(24 + size, size as usize);
        let hash = source.ingest_bytes(&data).unwrap().hash;
        for lie in [0, 1, 10, size.saturating_sub(1), size + 1, size + 16_384, 2 * size + 1, 16_385, 10_000_000] {
            if lie == size {
                continue;
            }
            let assembly = store.assemble(&hash, lie).unwrap();
            while let Some(taken) = assembly.take(MAX_BLOCK_BYTES) {
                let Range { start, end } = taken.range();
                let Ok(encoded) = source.encode_block(&hash, start..end.min(size)) else { break };
                if assembly.write_block(start..end, &encoded).is_err() {
                    break;
                }
            }
            assert!(assembly.finish().is_err(), "{lie} for {size}");
        }
        for huge in [1 << 50, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
            let error = store.assemble(&hash, huge).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        }
        fetch(&source, &store, &hash, size).unwrap();
        assert_eq!(read_all(&store, &hash).unwrap(), data);
        let error = store.assemble(&hash, size + 1).unwrap_err();
        assert!(matches!(error, ContentError::SizeDiffers { .. }), "{error}");
    }
    assert!(!store.files().iter().any(|file| file.starts_with(store.path("assemblies"))), "{:?}", store.files());
}

#[test]
fn one_blob_has_one_assembly_however_many_ask_and_nothing_is_taken_twice() {
    let (source, store) = (Store::new(), Store::new());
    let size = 12_000_000;
    let data = bytes(25, size as usize);
    let hash = source.ingest_bytes(&data).unwrap().hash;
    let crossed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let (source, store, crossed) = (&source, &store, &crossed);
            scope.spawn(move || {
                let assembly = store.assemble(&hash, size).unwrap();
                while let Some(taken) = assembly.take(16_384 << thread) {
                    assert!(taken.range().end - taken.range().start <= 16_384 << thread);
                    write(&assembly, source, taken.range());
                    crossed.fetch_add(taken.range().end - taken.range().start, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(crossed.into_inner(), size);
    let assembly = store.assemble(&hash, size).unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| assembly.finish().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results, [source.ingest_bytes(&data).unwrap(); 4]);
    assert_eq!(read_all(&store, &hash).unwrap(), data);
}

#[test]
fn a_range_that_is_given_back_can_be_taken_by_another() {
    let store = Store::new();
    let assembly = store.assemble(&hash_of(b"x"), 3_000_000).unwrap();
    let first = assembly.take(100_000).unwrap();
    assert_eq!(first.range(), 0..65_536, "a power of two of groups");
    let second = assembly.take(u64::MAX).unwrap();
    assert_eq!(second.range(), 65_536..1 << 20, "up to the next boundary");
    drop(first);
    assert_eq!(assembly.take(1).unwrap().range(), 0..16_384);
}

#[test]
fn what_somebody_waits_for_is_taken_before_the_rest_and_the_rest_then() {
    let (source, store) = (Store::new(), Store::new());
    let size = 3_000_000;
    let hash = source.ingest_bytes(&bytes(27, size as usize)).unwrap().hash;
    let assembly = store.assemble(&hash, size).unwrap();
    store.hurry(&hash, &(1_000_000..u64::MAX));
    store.hurry(&hash, &(2_000_003..2_040_000));
    store.hurry(&hash, &(size..size + 1));
    let mut order = Vec::new();
    while let Some(taken) = assembly.take(1 << 20) {
        write(&assembly, &source, taken.range());
        order.push(taken.range());
    }
    let (small, large) = (1_998_848..2_048_000, 999_424..1_048_576);
    let rest = [1_048_576..1_998_848, 2_048_000..2_097_152, 2_097_152..size, 0..999_424];
    assert_eq!(order, [[small, large].as_slice(), &rest].concat());
    assembly.finish().unwrap();
}

#[test]
fn what_has_come_is_served_to_others_before_the_rest_is_there() {
    let (source, store) = (Store::new(), Store::new());
    let size = 3_000_000;
    let hash = source.ingest_bytes(&bytes(26, size as usize)).unwrap().hash;
    let assembly = store.assemble(&hash, size).unwrap();
    write(&assembly, &source, 1 << 20..2 << 20);
    let range = 1 << 20..(1 << 20) + 65_536;
    assert_eq!(store.encode_block(&hash, range.clone()).unwrap(), source.encode_block(&hash, range.clone()).unwrap());
    assert!(matches!(store.encode_block(&hash, 0..65_536), Err(ContentError::Absent(_))));
    for (content, held) in [(&store, 1 << 20..2 << 20), (&source, 0..size)] {
        assert_eq!(content.held_ranges(&hash).unwrap(), std::slice::from_ref(&held));
    }
    flip(&store.0.layout.assembly(&hash, size, "data"), 1 << 20);
    assert!(matches!(store.encode_block(&hash, range.clone()), Err(ContentError::Damaged(_))));
    assert!(!assembly.held_ranges().iter().any(|held| held.contains(&range.start)), "it is fetched again");
    drop(assembly);
    fetch(&source, &store, &hash, size).unwrap();
    assert!(store.check(&mut go_on).unwrap().is_clean());
}

#[test]
fn an_abandoned_assembly_leaves_nothing_and_can_begin_again() {
    let (source, store) = (Store::new(), Store::new());
    let size = 100_000;
    let hash = source.ingest_bytes(&bytes(27, size as usize)).unwrap().hash;
    let assembly = store.assemble(&hash, size).unwrap();
    write(&assembly, &source, 0..16_384);
    assembly.clone().abandon().unwrap();
    assert!(matches!(assembly.finish(), Err(ContentError::Abandoned(_))));
    assert!(matches!(assembly.write_block(0..16_384, &[]), Err(ContentError::Abandoned(_))));
    assert!(store.files().is_empty());
    assert_eq!(store.status(&hash).unwrap(), BlobStatus::Absent);
    assert_eq!(fetch(&source, &store, &hash, size).unwrap().1, size);
    assembly.abandon().unwrap();
    assert!(held(&store, &hash));
}

#[test]
fn an_assembly_without_room_is_refused_and_promises_count() {
    let store = Store::new();
    let free = store.usage().unwrap().free;
    let half = free / 5 * 3;
    let first = store.assemble(&hash_of(b"1"), half).unwrap();
    let error = store.assemble(&hash_of(b"2"), half).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.hint().is_some());
    assert_eq!(store.files().len(), 3, "only those of the first: {:?}", store.files());
    first.abandon().unwrap();
    store.assemble(&hash_of(b"2"), half).unwrap();
}

#[test]
fn small_blobs_share_one_commit_and_leave_no_files() {
    let (source, store) = (Store::new(), Store::new());
    let mut batch = store.batch();
    let mut hashes = Vec::new();
    for seed in 0..200 {
        let data = bytes(seed, 1000);
        let hash = source.ingest_bytes(&data).unwrap().hash;
        let assembly = store.assemble(&hash, 1000).unwrap();
        write(&assembly, &source, 0..1000);
        batch.add_assembly(&assembly).unwrap();
        hashes.push(hash);
    }
    batch.commit().unwrap();
    assert!(hashes.iter().all(|hash| held(&store, hash)));
    assert!(store.files().is_empty());
}
