//! Which blobs stock iroh-blobs clients may have: those that somebody named, durably, as a reason to keep them. A blob that is
//! kept for any other reason is none of them.

use super::{Content, ContentError, Pin};
use crate::model::BlobHash;

/// What a file that is named for stock clients begins with: the header of the metadata of a collection of iroh-blobs.
const COLLECTION_HEADER: &[u8] = b"CollectionV0.";
/// Most files of a collection: as many as have their hashes, and that of their names, in [`MAX_SEQUENCE_BYTES`].
const MAX_COLLECTION_FILES: usize = MAX_SEQUENCE_BYTES as usize / 32 - 1;
/// Most bytes of hashes that are one collection. They are in memory while one is asked for.
pub(crate) const MAX_SEQUENCE_BYTES: u64 = 1024 * 1024;

impl Content {
    /// Lets stock clients have one blob, which need not be here yet, and keeps it.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn allow_stock(&self, hash: &BlobHash) -> Result<(), ContentError> {
        self.pin(&Pin::Stock(*hash), &[*hash])
    }

    /// Lets stock clients have files under these names, as one collection, and returns what names it: the hash of the hashes of
    /// its names and of its files (`iroh-blobs`, `format/collection.rs`). `None` when they are too many for a collection.
    ///
    /// # Errors
    /// `NoSpace`, or when the index cannot be written.
    pub fn allow_stock_files(&self, files: &[(String, BlobHash)]) -> Result<Option<BlobHash>, ContentError> {
        if files.len() > MAX_COLLECTION_FILES {
            return Ok(None);
        }
        let mut names = COLLECTION_HEADER.to_vec();
        put_varint(&mut names, files.len() as u64);
        for (name, _) in files {
            put_varint(&mut names, name.len() as u64);
            names.extend_from_slice(name.as_bytes());
        }
        let _kept = self.keep_unpinned();
        let names = self.ingest_bytes(&names)?.hash;
        let members: Vec<BlobHash> = std::iter::once(names).chain(files.iter().map(|(_, hash)| *hash)).collect();
        let sequence: Vec<u8> = members.iter().flat_map(|hash| *hash.as_bytes()).collect();
        let root = self.ingest_bytes(&sequence)?.hash;
        self.pin(&Pin::Stock(root), &[members, vec![root]].concat())?;
        Ok(Some(root))
    }

    /// Lets stock clients have the blob or the collection of this hash no more. What is under way is not cut off.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn forbid_stock(&self, hash: &BlobHash) -> Result<(), ContentError> {
        self.unpin(&Pin::Stock(*hash))
    }

    /// The hashes that were allowed, of blobs and of collections.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn stock(&self) -> Result<Vec<BlobHash>, ContentError> {
        let named = |pin| if let Pin::Stock(hash) = pin { Some(hash) } else { None };
        Ok(self.pins()?.into_iter().filter_map(named).collect())
    }

    /// Whether stock clients may have a blob, by itself or in a collection.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn is_stock(&self, hash: &BlobHash) -> Result<bool, ContentError> {
        Ok(self.reasons_of(&[*hash])?.concat().iter().any(|pin| matches!(pin, Pin::Stock(_))))
    }
}

/// A number as postcard writes it: seven bits a byte, the lowest first (LEB128).
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::content::Options;

    #[test]
    fn what_is_allowed_is_kept_until_it_is_forbidden_and_nothing_else_is_allowed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let content = Content::open(directory.path(), Options::default(), Arc::new(SystemClock)).expect("opens");
        let [one, two, other] = [b"one", b"two", b"oth"].map(|bytes| content.ingest_bytes(bytes).expect("taken in").hash);
        content.pin(&Pin::User("mine".into()), &[other]).expect("pinned");
        content.allow_stock(&one).expect("allowed");
        let root = content.allow_stock_files(&[("a/b".into(), one), ("c".into(), two)]).expect("allowed").expect("few");
        let names = content.read_blob(&root, 32).expect("held");
        let names = BlobHash::from_bytes(names.try_into().expect("a hash"));
        assert_eq!(content.read_blob(&names, 100).expect("held"), b"CollectionV0.\x02\x03a/b\x01c");
        let is = |hash| content.is_stock(hash).expect("readable");
        assert_eq!([&root, &names, &one, &two, &other].map(is), [true, true, true, true, false]);
        content.forbid_stock(&root).expect("forbidden");
        assert_eq!([&root, &names, &one, &two].map(is), [false, false, true, false]);
        assert_eq!(content.stock().expect("readable"), [one]);
        content.gc_all().expect("collected");
        assert!(content.holds(&one).expect("readable") && !content.holds(&root).expect("readable"));
        let many = vec![(String::new(), one); MAX_COLLECTION_FILES + 1];
        assert_eq!(content.allow_stock_files(&many).expect("refused"), None);
    }
}
