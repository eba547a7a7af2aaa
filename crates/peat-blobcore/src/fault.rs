//! Places where a test may kill the process: each stands right before or after a step that changes durable state.
//!
//! With the feature `crash-points` the process aborts at the place that the environment variable `PEAT_BLOB_CRASH_AT` names,
//! `name` for the first time it is reached and `name:n` for the n-th. Without the feature nothing is compiled in. Nothing
//! but a test may ever depend on a point.

/// Every place, and what has just become durable there, or is about to.
#[cfg(any(test, feature = "crash-points"))]
pub(crate) const POINTS: [(&str, &str); 35] = [
    ("content.open.marked", "the index says that the store is in use"),
    ("content.open.recovered", "leftovers are gone, and orphans adopted; the unclean end is still on record"),
    ("content.ingest.copied", "a temp file is whole, and not synced"),
    ("content.commit.synced", "the staged files are durable under their temp names"),
    ("content.commit.moved", "some staged data file has its final name, without its outboard"),
    ("content.commit.renamed", "all staged files have their final names; the index does not know them"),
    ("content.commit.indexed", "the index knows them; the leftovers of assemblies are still there"),
    ("content.assembly.made", "an assembly's data file has its size; there is no bitmap"),
    ("content.assembly.written", "a block's data and hashes are written; its bits are not"),
    ("content.assembly.marked", "a block's bits are written"),
    ("content.assembly.synced", "data and hashes are durable; the bitmap is not"),
    ("content.assembly.salvaged", "one of a damaged blob's two files has become an assembly's"),
    ("content.draft.begun", "the recipe of a draft is durable; nothing of the draft is"),
    ("content.draft.written", "some of a draft is written, and nothing says which"),
    ("content.draft.hashed", "a draft is the blob, with its hashes, and durable; the bitmap does not say so"),
    ("content.recipe.kept", "a blob's recipe has its name, and is not synced"),
    ("content.pin", "pins have been written"),
    ("content.delete.indexed", "the index has forgotten a blob; its files are still there"),
    ("content.delete.half", "a blob's data file is gone; its outboard is still there"),
    ("content.damage.marked", "the index says that a blob is damaged"),
    ("content.close.marked", "the index says that the store was closed"),
    ("exchange.begin", "the ledger knows what is about to be delivered, and under which temporary names"),
    ("exchange.directory", "a directory of the inbox was made"),
    ("exchange.write", "a temporary file is whole"),
    ("exchange.barrier", "all temporary files are durable"),
    ("exchange.placing", "the ledger says that what belongs together gets its names, whatever happens"),
    ("exchange.aside", "what the user edited has its other name"),
    ("exchange.rename", "a temporary file has its final name"),
    ("exchange.named", "all names are durable; the ledger does not say so"),
    ("exchange.finish", "the ledger knows what was delivered; nobody else does"),
    ("exchange.remove", "a file that was to go is gone; neither that nor the ledger is durable"),
    ("exchange.removed", "the ledger knows what went; nobody else does"),
    ("exchange.recover", "one file that a crash left behind is dealt with"),
    ("replica.commit.before", "envelopes are about to be stored, and nobody has heard of it"),
    ("replica.commit.after", "envelopes are stored, and nobody has heard of it"),
];

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::POINTS;

    #[test]
    fn every_place_in_the_source_is_listed_once_and_every_listed_place_is_in_the_source() {
        let mut found = Vec::new();
        let mut directories = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("the sources").map(|entry| entry.expect("an entry").path()) {
                if entry.is_dir() {
                    directories.push(entry);
                    continue;
                }
                let source = std::fs::read_to_string(&entry).expect("text");
                let calls = source.split("fault::point(\"").skip(1);
                found.extend(calls.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()));
            }
        }
        let listed: BTreeSet<String> = POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed.len(), POINTS.len(), "a place is listed twice");
        assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), listed);
        assert_eq!(found.len(), listed.len(), "two places have one name: {found:?}");
    }
}
