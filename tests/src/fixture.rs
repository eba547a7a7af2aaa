//! What is in the store that is kept as a fixture, for the example that makes it and the test that opens it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use peat_blobcore::model::{BlobHash, DistributionId, EndpointId, Timestamp};

/// When the certificates of its members end.
pub const NEVER: Timestamp = Timestamp::from_millis(1 << 52);

/// What its node has sent: a blob that lies in the index, an empty one, and one that is a file.
#[must_use]
pub fn sent() -> BTreeMap<PathBuf, Vec<u8>> {
    let large: Vec<u8> = (0..40_000_u32).map(|number| (number / 100) as u8).collect();
    named([("small", b"small".to_vec()), ("empty", Vec::new()), ("large", large)])
}

/// What its node has received; the first of it was removed from the inbox.
#[must_use]
pub fn received() -> BTreeMap<PathBuf, Vec<u8>> {
    named([("removed", b"from elsewhere".to_vec()), ("stays", b"in the inbox".to_vec())])
}

fn named<const N: usize>(files: [(&str, Vec<u8>); N]) -> BTreeMap<PathBuf, Vec<u8>> {
    files.into_iter().map(|(name, content)| (PathBuf::from(name), content)).collect()
}

/// What a test is to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// When it was made; the test lives then.
    pub made_at: Timestamp,
    /// Whose store it is.
    pub node: EndpointId,
    /// A distribution that it sent.
    pub sent: DistributionId,
    /// One that it received.
    pub received: DistributionId,
    /// A blob of which it has some.
    pub assembly: BlobHash,
    /// That blob's size in bytes.
    pub assembly_size: u64,
}

impl Expected {
    /// Reads what [`Expected`] displays as.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the fixture is there");
        let words: Vec<&str> = text.lines().filter_map(|line| line.split_once(' ')).map(|(_, value)| value).collect();
        let number = |at: usize| words[at].parse().expect("a number");
        Self {
            made_at: Timestamp::from_millis(number(0)),
            node: parsed(words[1]),
            sent: parsed(words[2]),
            received: parsed(words[3]),
            assembly: parsed(words[4]),
            assembly_size: number(5),
        }
    }
}

fn parsed<T: FromStr<Err: fmt::Debug>>(word: &str) -> T {
    word.parse().expect("an id")
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "made-at {}\nnode {}\nsent {}", self.made_at.as_millis(), self.node, self.sent)?;
        writeln!(f, "received {}\nassembly {}\nassembly-size {}", self.received, self.assembly, self.assembly_size)
    }
}
