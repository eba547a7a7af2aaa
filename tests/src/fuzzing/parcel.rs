//! Parcels: what anybody may have put into a file, read by who takes it for a parcel.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Content, MAX_BLOCK_BYTES, MAX_INLINE_BYTES, Options};
use peat_blobcore::document::Envelope;
use peat_blobcore::model::{BlobHash, DistributionId, FormationId};
use peat_blobcore::parcel::{Header, Item, MAGIC, MAX_CONTENTS, ParcelError, ParcelReader, ParcelWriter, VERSION};

use super::fixture::{Author, NOW};

/// Reading ends, blocks cover their blob in order, and what is read to its end is what a writer makes of it again. The input
/// is taken as it is, and as the frames of a parcel whose beginning and end are right, to which chance never comes.
///
/// # Panics
/// When a law is broken.
pub fn parcel(bytes: &[u8]) {
    let _ = read(bytes);
    let whole = [&MAGIC[..], &VERSION.to_le_bytes(), bytes].concat();
    let hash = blake3::hash(&whole);
    let end = [&[6_u8][..], &32_u32.to_le_bytes(), hash.as_bytes()].concat();
    let whole = [whole, end].concat();
    if let Ok((header, items)) = read(&whole) {
        let again = write(&header, &items);
        let (header_again, again) = read(&again).expect("what is written is read");
        assert_eq!((header_again, merged(again)), (header, merged(items)));
    }
}

fn read(bytes: &[u8]) -> Result<(Header, Vec<Item>), ParcelError> {
    let (header, mut reader) = ParcelReader::open(bytes)?;
    let (mut items, mut blob) = (Vec::new(), None);
    while let Some(item) = reader.next_item()? {
        assert!(reader.bytes() <= bytes.len() as u64);
        match &item {
            Item::Envelopes(envelopes) => envelopes.iter().for_each(|envelope| drop(Envelope::open(envelope))),
            Item::Contents(distributions) => assert!(distributions.len() <= MAX_CONTENTS),
            Item::Blob { hash, size } => assert!(blob.replace((*hash, *size, 0)).is_none(), "one blob at a time"),
            Item::Block { range, encoded } => {
                let (hash, size, next) = blob.as_mut().expect("blocks are of a blob");
                assert!(range.start == *next && range.start < range.end && range.end <= *size);
                assert!(range.end - range.start == MAX_BLOCK_BYTES || range.end == *size);
                *next = range.end;
                // Larger ones take disk.
                if *size <= MAX_INLINE_BYTES {
                    let assembly = STORE.assemble(hash, *size).expect("it fits");
                    let written = assembly.write_block(range.clone(), encoded);
                    assert!(written.is_err() || assembly.held() > 0, "what is not wrong is held");
                    assembly.abandon().expect("it is given up");
                }
            }
            Item::Whole => assert!(blob.take().is_some_and(|(_, size, next)| size == next)),
            Item::Cut => assert!(blob.take().is_some_and(|(_, size, next)| next < size)),
        }
        items.push(item);
    }
    assert!(blob.is_none() && reader.bytes() == bytes.len() as u64);
    assert!(reader.next_item().expect("it has ended").is_none());
    Ok((header, items))
}

/// The items as no writer cuts them: envelopes that follow each other as one, and nothing empty.
fn merged(items: Vec<Item>) -> Vec<Item> {
    let mut merged: Vec<Item> = Vec::new();
    for item in items {
        match (merged.last_mut(), item) {
            (_, Item::Contents(distributions)) if distributions.is_empty() => {}
            (_, Item::Envelopes(envelopes)) if envelopes.is_empty() => {}
            (Some(Item::Envelopes(before)), Item::Envelopes(envelopes)) => before.extend(envelopes),
            (_, item) => merged.push(item),
        }
    }
    merged
}

fn write(header: &Header, items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ParcelWriter::begin(&mut bytes, header).expect("memory");
    for item in items {
        match item {
            Item::Envelopes(envelopes) => envelopes.iter().for_each(|it| writer.envelope(it).expect("memory")),
            Item::Contents(distributions) => writer.contents(distributions).expect("memory"),
            Item::Blob { hash, size } => writer.blob(*hash, *size).expect("memory"),
            Item::Block { encoded, .. } => writer.block(encoded).expect("memory"),
            Item::Whole => {}
            Item::Cut => writer.cut().expect("memory"),
        }
    }
    writer.finish().expect("memory");
    bytes
}

/// A store for small blobs, which are assembled in memory. Its directory is gone already.
static STORE: LazyLock<Content> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Content::open(directory.path(), Options::default(), Arc::new(SystemClock)).expect("a store")
});

/// Parcels without their first bytes and their last frame.
pub(super) fn seeds(envelopes: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let exporter = Author::named(0).id();
    let header = Header { formation: FormationId::from_bytes([1; 16]), exporter, made_at: NOW };
    // A blob of one group has no inner hashes: its only block is itself.
    let (encoded, size) = (b"a small blob".to_vec(), 12);
    let hash = BlobHash::from_bytes(*blake3::hash(&encoded).as_bytes());
    let mut seeds = Vec::new();
    let mut seed = |items: &[Item]| {
        let whole = write(&header, items);
        seeds.push(whole[MAGIC.len() + 2..whole.len() - 5 - 32].to_vec());
    };
    let whole = [Item::Blob { hash, size }, Item::Block { range: 0..size, encoded }, Item::Whole];
    let contents = Item::Contents(vec![DistributionId::from_bytes([4; 32]), DistributionId::from_bytes([5; 32])]);
    let empty = Item::Blob { hash: BlobHash::from_bytes(*blake3::hash(b"").as_bytes()), size: 0 };
    seed(&[]);
    seed(&[Item::Envelopes(envelopes.iter().take(3).cloned().map(Bytes::from).collect()), contents]);
    seed(&whole);
    seed(&[empty, Item::Whole, Item::Blob { hash, size: u64::MAX }, Item::Cut]);
    seeds
}
