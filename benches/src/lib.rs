//! Measurements of the library, each held against a peer or a physical limit of the same machine in the same run.
//!
//! A figure alone says more about the machine than about us. So each bench gives rows of ours, theirs and their ratio, as
//! the median of several runs that alternate between the two. What needs a process of its own is run in a child, which is
//! this program again. Nothing here is a test: it fails when something does not work, never because it was slow.
mod child;
mod documents;
mod idle;
mod ingest;
mod measure;
mod meet;
mod month;
mod page;
mod pair;
mod reconcile;
mod scale;
mod small;
mod streams;
mod table;
mod transfer;
mod upstream;

use std::path::PathBuf;

pub use child::run as run_child;
pub use month::run as run_month;
pub use scale::run as run_scale;
pub use table::{Row, Spread, heading};

/// What a bench, or one of its children, comes back with. What went wrong is only ever printed.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much to measure, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Beneath which directory everything is written.
    pub directory: PathBuf,
    /// How often each thing is measured.
    pub runs: usize,
    /// Bytes of the one large file.
    pub large: u64,
    /// Documents.
    pub documents: usize,
    /// Small files.
    pub files: usize,
}

impl Options {
    /// What the figures in the documentation were measured with.
    #[must_use]
    pub fn full(directory: PathBuf) -> Self {
        Self { directory, runs: 5, large: 1 << 30, documents: 10_000, files: 10_000 }
    }

    /// Just enough to show that everything works.
    #[must_use]
    pub fn quick(directory: PathBuf) -> Self {
        Self { directory, runs: 1, large: 8 << 20, documents: 200, files: 200 }
    }

    fn temporary(&self) -> Outcome<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("peat-blob-benches-").tempdir_in(&self.directory)?)
    }
}

/// One bench: its name, and what runs it.
type Bench = (&'static str, fn(&Options) -> Outcome<Vec<Row>>);

/// Every bench, in the order in which they are run.
pub const BENCHES: [Bench; 7] = [
    ("reconcile", reconcile::run),
    ("meet", meet::run),
    ("memory", idle::run),
    ("ingest", ingest::run),
    ("transfer", transfer::run),
    ("small", small::run),
    ("upstream", upstream::run),
];
