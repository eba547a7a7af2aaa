//! Places where a test may kill the process: each stands right after a step that changes durable state.
//!
//! With the feature `crash-points` the process aborts at the place that the environment variable `PEAT_BLOB_CRASH_AT` names,
//! `name` for the first time it is reached and `name:n` for the n-th. Without the feature nothing is compiled in. Nothing
//! but a test may ever depend on a point.
//!
//! | point | what has just become durable, or is about to |
//! |---|---|
//! | `content.open.marked` | the index says that the store is in use |
//! | `content.open.recovered` | leftovers are gone, and orphans adopted; the unclean end is still on record |
//! | `content.ingest.copied` | a temp file is whole, and not synced |
//! | `content.commit.synced` | the staged files are durable under their temp names |
//! | `content.commit.moved` | some staged data file has its final name, without its outboard |
//! | `content.commit.renamed` | all staged files have their final names; the index does not know them |
//! | `content.commit.indexed` | the index knows them; the leftovers of assemblies are still there |
//! | `content.assembly.made` | an assembly's data file has its size; there is no bitmap |
//! | `content.assembly.written` | a block's data and hashes are written; its bits are not |
//! | `content.assembly.marked` | a block's bits are written |
//! | `content.assembly.synced` | data and hashes are durable; the bitmap is not |
//! | `content.assembly.salvaged` | one of a damaged blob's two files has become an assembly's |
//! | `content.pin` | pins have been written |
//! | `content.delete.indexed` | the index has forgotten a blob; its files are still there |
//! | `content.delete.half` | a blob's data file is gone; its outboard is still there |
//! | `content.damage.marked` | the index says that a blob is damaged |
//! | `content.close.marked` | the index says that the store was closed |

/// Aborts the process when the environment asks for it at this place.
#[cfg(feature = "crash-points")]
pub(crate) fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static HITS: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("PEAT_BLOB_CRASH_AT") else { return };
    let (place, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if place == name && count.parse() == Ok(HITS.fetch_add(1, Ordering::Relaxed) + 1) {
        std::process::abort();
    }
}

/// Does nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}
