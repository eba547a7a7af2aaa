//! What a distribution consists of: the immutable bytes that its id is the hash of.

use std::fmt;
use std::time::Duration;

use minicbor::Decoder;

use super::{
    BlobHash, DistributionId, EndpointId, Package, RelativePath, Scope, Sha256Digest, Timestamp, UnsafePath, decode_whole, encode,
};

/// Longest encoded manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 256 * 1024;
/// Files that fit into the manifest itself; more go into a list that is a blob.
pub const MAX_INLINE_FILES: usize = 256;
/// Most files of one distribution.
pub const MAX_LISTED_FILES: usize = 1_000_000;
/// Longest encoded list of files, in bytes.
pub const MAX_FILE_LIST_BYTES: u64 = 256 * 1024 * 1024;
/// Longest text field (root, bundle, display name, content type), in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// Longest path that is read at all. Those over `MAX_PATH_BYTES` are delivered under a safe name.
const MAX_RAW_PATH_BYTES: usize = 16 * 1024;

/// A distribution as its sender defined it. Its id is the BLAKE3 hash of its encoding.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Manifest {
    /// Who sends it.
    #[n(0)]
    pub sender: EndpointId,
    /// The send call that it belongs to.
    #[n(1)]
    pub bundle: String,
    /// What is sent.
    #[n(2)]
    pub files: Files,
    /// Whom it is for.
    #[n(3)]
    pub scope: Scope,
    /// How urgent it is.
    #[n(4)]
    pub priority: Priority,
    /// The sender's hybrid clock: later than every manifest that the sender had accepted for one of the paths.
    #[n(5)]
    pub made_at: Timestamp,
    /// When nobody needs to deliver it any more.
    #[n(6)]
    pub expiry: Timestamp,
    /// Who may hold it for others.
    #[n(7)]
    pub carry: Carry,
    /// Whether its files appear in an inbox all at once, or each as it comes.
    #[n(8)]
    pub together: bool,
    /// What it is, when its files are the blobs of a package.
    #[n(9)]
    pub package: Option<Package>,
    /// Whether its files are gone at the sender's and are to go from inboxes; they are [`FileEntry::removed`]. Who knows nothing
    /// of this finds files that nobody has the content of, and delivers nothing.
    #[cbor(n(10), skip_if = "std::ops::Not::not")]
    pub removes: bool,
}

/// The files of a distribution.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Files {
    /// Up to [`MAX_INLINE_FILES`], here.
    #[n(0)]
    Inline(#[n(0)] Vec<FileEntry>),
    /// More of them, in a blob that is an encoded [`FileList`].
    #[n(1)]
    List {
        /// The list's blob.
        #[n(0)]
        blob: BlobHash,
        /// Its size in bytes.
        #[n(1)]
        size: u64,
        /// How many files it lists.
        #[n(2)]
        count: u64,
        /// The sum of their sizes in bytes.
        #[n(3)]
        bytes: u64,
    },
}

/// One file of a distribution.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct FileEntry {
    /// The name of the sender's root that it comes from.
    #[n(0)]
    pub root: String,
    /// Its path beneath the root and beneath the inbox, as bytes: see [`FileEntry::relative_path`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// Its size in bytes.
    #[n(2)]
    pub size: u64,
    /// Its content.
    #[n(3)]
    pub blob: BlobHash,
    /// The SHA-256 of its content.
    #[n(4)]
    pub sha256: Sha256Digest,
    /// Its permission bits (`0o7777` at most; of which an inbox keeps what its policy says, and never more than `0o777`).
    #[n(5)]
    pub mode: u32,
    /// When it was last modified, in milliseconds since the Unix epoch.
    #[n(6)]
    pub mtime: i64,
    /// Its media type, if the sender gave one.
    #[n(7)]
    pub content_type: Option<String>,
    /// A name for people, if the sender gave one.
    #[n(8)]
    pub display_name: Option<String>,
}

impl FileEntry {
    /// A file that is to go. Zeros are the hash of nothing that anybody knows.
    #[must_use]
    pub fn removed(root: String, path: Vec<u8>) -> Self {
        let (blob, sha256) = (BlobHash::from_bytes([0; 32]), Sha256Digest::from_bytes([0; 32]));
        Self { root, path, size: 0, blob, sha256, mode: 0, mtime: 0, content_type: None, display_name: None }
    }

    /// Where the file belongs beneath an inbox.
    ///
    /// # Errors
    /// Why the path is unsafe; such a file is delivered as `{distribution_id}.bin`.
    pub fn relative_path(&self) -> Result<RelativePath, UnsafePath> {
        RelativePath::parse(&self.path)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let texts = [Some(&self.root), self.content_type.as_ref(), self.display_name.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(ManifestError::TextTooLong);
        }
        if self.path.len() > MAX_RAW_PATH_BYTES { Err(ManifestError::TextTooLong) } else { Ok(()) }
    }
}

/// The content of the blob that [`Files::List`] names.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode)]
#[cbor(transparent)]
pub struct FileList(#[n(0)] pub Vec<FileEntry>);

impl FileList {
    /// The bytes of the list's blob.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a list from its blob and holds it against the manifest's figures.
    ///
    /// # Errors
    /// [`ManifestError`] when the bytes are no list, or not of `count` files and `bytes` bytes. Reading ends at the first that
    /// does not fit.
    pub fn decode(encoded: &[u8], count: u64, bytes: u64) -> Result<Self, ManifestError> {
        let mut decoder = Decoder::new(encoded);
        if decoder.array()? != Some(count) {
            return Err(ManifestError::ListDiffers);
        }
        // Nothing is reserved for what is only claimed to follow.
        let (mut files, mut sum) = (Vec::new(), 0_u64);
        for _ in 0..count {
            let file: FileEntry = decoder.decode()?;
            file.check()?;
            sum = sum.checked_add(file.size).filter(|sum| *sum <= bytes).ok_or(ManifestError::ListDiffers)?;
            files.push(file);
        }
        if sum != bytes || decoder.position() != encoded.len() {
            return Err(ManifestError::ListDiffers);
        }
        Ok(Self(files))
    }
}

/// How urgent a distribution is. Greater is more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Priority {
    /// When nothing else is to be done.
    #[n(1)]
    Bulk,
    /// After routine.
    #[n(2)]
    Low,
    /// The default.
    #[default]
    #[n(3)]
    Routine,
    /// Before routine.
    #[n(4)]
    Priority,
    /// Before everything, also on metered links.
    #[n(5)]
    Critical,
}

impl Priority {
    /// All of them, the least urgent first.
    pub const ALL: [Self; 5] = [Self::Bulk, Self::Low, Self::Routine, Self::Priority, Self::Critical];
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bulk => "bulk",
            Self::Low => "low",
            Self::Routine => "routine",
            Self::Priority => "priority",
            Self::Critical => "critical",
        })
    }
}

/// Who may hold a distribution for targets that are out of reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
pub enum Carry {
    /// Nobody.
    #[n(0)]
    None,
    /// Any member of the formation.
    #[default]
    #[n(1)]
    Members,
    /// These members.
    #[n(2)]
    Nodes(#[n(0)] Vec<EndpointId>),
}

impl Carry {
    /// Whether this endpoint may carry.
    #[must_use]
    pub fn permits(&self, id: &EndpointId) -> bool {
        match self {
            Self::None => false,
            Self::Members => true,
            Self::Nodes(ids) => ids.contains(id),
        }
    }
}

/// Why bytes are not a manifest, or a manifest not one that may be sent.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not CBOR of the expected shape.
    #[error("the bytes are not a manifest: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    /// Over [`MAX_MANIFEST_BYTES`].
    #[error("the manifest has {0} bytes, over the limit of {MAX_MANIFEST_BYTES}")]
    TooLarge(usize),
    /// No file, or more than fit.
    #[error("the manifest names {0} files: it takes 1 to {MAX_INLINE_FILES} inline, and at most {MAX_LISTED_FILES} in a list")]
    FileCount(u64),
    /// A text or path field over its limit.
    #[error("a text of the manifest is longer than {MAX_TEXT_BYTES} bytes, or a path longer than {MAX_RAW_PATH_BYTES}")]
    TextTooLong,
    /// The sizes do not add up in 64 bits, or the list's blob is over [`MAX_FILE_LIST_BYTES`].
    #[error("the manifest's sizes are out of range")]
    SizeRange,
    /// It expires before it was made, or more than a year after.
    #[error("the manifest's expiry is not within a year after it was made")]
    Expiry,
    /// The list's blob is not what the manifest says of it.
    #[error("the list of files does not agree with the manifest")]
    ListDiffers,
    /// It has files removed, and sends something too.
    #[error("a manifest that has files removed has no bytes, no package, and nothing that comes together")]
    Removal,
}

impl Manifest {
    /// How long a distribution is tried when its sender does not say.
    pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
    /// The longest that a sender may ask for.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);

    /// Encodes and names the manifest.
    ///
    /// # Errors
    /// [`ManifestError`] when another node would refuse it.
    pub fn seal(&self) -> Result<(DistributionId, Vec<u8>), ManifestError> {
        self.check()?;
        let bytes = encode(self);
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        Ok((Self::id_of(&bytes), bytes))
    }

    /// Reads a manifest from bytes that anyone may have made.
    ///
    /// # Errors
    /// [`ManifestError`] when it is malformed or over a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let manifest: Self = decode_whole(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The id of the distribution whose manifest these bytes are.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> DistributionId {
        DistributionId::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    /// How many files it has.
    #[must_use]
    pub fn file_count(&self) -> u64 {
        match &self.files {
            Files::Inline(files) => files.len() as u64,
            Files::List { count, .. } => *count,
        }
    }

    /// The sum of the sizes of its files, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        match &self.files {
            Files::Inline(files) => files.iter().map(|file| file.size).sum(),
            Files::List { bytes, .. } => *bytes,
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        let package = self.package.iter().flat_map(|package| [&package.repository, &package.digest]);
        if package.chain([&self.bundle]).any(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(ManifestError::TextTooLong);
        }
        match &self.files {
            Files::Inline(files) => {
                if files.is_empty() || files.len() > MAX_INLINE_FILES {
                    return Err(ManifestError::FileCount(files.len() as u64));
                }
                files.iter().try_for_each(FileEntry::check)?;
                files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size)).ok_or(ManifestError::SizeRange)?;
            }
            Files::List { size, count, .. } => {
                if *count == 0 || *count > MAX_LISTED_FILES as u64 {
                    return Err(ManifestError::FileCount(*count));
                }
                if *size > MAX_FILE_LIST_BYTES {
                    return Err(ManifestError::SizeRange);
                }
            }
        }
        if self.removes && (self.total_bytes() > 0 || self.package.is_some() || self.together) {
            return Err(ManifestError::Removal);
        }
        if self.expiry <= self.made_at || self.expiry > self.made_at.plus(Self::MAX_LIFETIME) {
            return Err(ManifestError::Expiry);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = FileEntry {
            root: "outbox".into(),
            path: b"a/b".to_vec(),
            size: 3,
            blob: BlobHash::from_bytes([1; 32]),
            sha256: Sha256Digest::from_bytes([2; 32]),
            mode: 0o644,
            mtime: -1,
            content_type: None,
            display_name: Some("B".into()),
        };
        Manifest {
            sender: EndpointId::from_bytes([9; 32]),
            bundle: "bundle".into(),
            files: Files::Inline(vec![file]),
            scope: Scope::Labels("role=edge".parse().expect("a selector")),
            priority: Priority::Routine,
            made_at: Timestamp::from_millis(1_000),
            expiry: Timestamp::from_millis(2_000),
            carry: Carry::Members,
            together: true,
            package: None,
            removes: false,
        }
    }

    #[test]
    fn a_manifest_round_trips_under_an_id_that_is_the_hash_of_its_bytes() {
        let (id, bytes) = manifest().seal().expect("a valid manifest");
        assert_eq!(id.as_bytes(), blake3::hash(&bytes).as_bytes());
        assert_eq!(Manifest::decode(&bytes).expect("what was sealed decodes"), manifest());
    }

    #[test]
    fn manifests_that_another_node_would_refuse_are_not_sealed() {
        let mut none = manifest();
        none.files = Files::Inline(Vec::new());
        assert!(matches!(none.seal(), Err(ManifestError::FileCount(0))));
        let mut backwards = manifest();
        backwards.expiry = backwards.made_at;
        assert!(matches!(backwards.seal(), Err(ManifestError::Expiry)));
        let mut sum = manifest();
        let Files::Inline(files) = &mut sum.files else { unreachable!("inline") };
        files[0].size = u64::MAX;
        files.push(files[0].clone());
        assert!(matches!(sum.seal(), Err(ManifestError::SizeRange)));
    }

    #[test]
    fn what_has_files_removed_sends_nothing_and_is_told_apart_by_a_key_that_others_lack() {
        let files = Files::Inline(vec![FileEntry::removed("outbox".into(), b"a/b".to_vec())]);
        let removal = Manifest { files, together: false, removes: true, ..manifest() };
        let (_, bytes) = removal.seal().expect("a valid manifest");
        assert_eq!(Manifest::decode(&bytes).expect("what was sealed decodes"), removal);
        let (_, without) = Manifest { removes: false, ..removal.clone() }.seal().expect("a valid manifest");
        assert_eq!(bytes.len(), without.len() + 2, "a key and a value, and nothing where it is not so");
        for wrong in [Manifest { files: manifest().files, ..removal.clone() }, Manifest { together: true, ..removal }] {
            assert!(matches!(wrong.seal(), Err(ManifestError::Removal)), "{wrong:?}");
        }
    }

    #[test]
    fn a_list_must_agree_with_its_manifest() {
        let Files::Inline(files) = manifest().files else { unreachable!("inline") };
        let bytes = FileList(files).encode();
        assert!(FileList::decode(&bytes, 1, 3).is_ok());
        assert!(matches!(FileList::decode(&bytes, 2, 3), Err(ManifestError::ListDiffers)));
        assert!(matches!(FileList::decode(&bytes, 1, 4), Err(ManifestError::ListDiffers)));
        assert!(matches!(FileList::decode(&bytes, 1, 2), Err(ManifestError::ListDiffers)));
        assert!(matches!(FileList::decode(&[&bytes[..], &[0]].concat(), 1, 3), Err(ManifestError::ListDiffers)));
        assert!(matches!(FileList::decode(&bytes[..bytes.len() - 1], 1, 3), Err(ManifestError::Malformed(_))));
    }
}
