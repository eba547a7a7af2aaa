//! How staged bytes become blobs: one barrier and one transaction for all who ask at about the same time.
//!
//! The order is never changed: bytes durable, names durable, index durable. Whoever is told that a blob is whole has been
//! told so after all three. When a step fails, the files get their earlier names back, and nothing half-made stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use super::index::{self, BLOBS};
use super::layout::{StagedPath, sync_dir};
use super::{ContentError, Ingested, Inner, lock};
use crate::fault;
use crate::model::BlobHash;

/// Up to this many files or directories are synced one by one; more by one sync of the whole file system.
const SINGLE_SYNCS: usize = 8;
/// Room that a transaction of the index is given. A full disk in its middle would make redb refuse all later ones.
pub(super) const INDEX_ROOM_BYTES: u64 = 8 * 1024 * 1024;

/// A blob whose bytes are complete and verified, and not durable yet.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) blob: Ingested,
    pub(super) bytes: StagedBytes,
}

/// Where a staged blob's bytes are.
#[derive(Debug)]
pub(super) enum StagedBytes {
    /// Here, to go into the index.
    Inline(Vec<u8>),
    /// In two files, to be renamed.
    Files { data: StagedPath, outboard: StagedPath },
}

type Outcome = Arc<Mutex<Option<Result<(), ContentError>>>>;

/// Who waits for the next commit. The first to find nobody at it commits for all.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<(Vec<Staged>, Outcome)>,
    busy: bool,
}

impl Inner {
    /// Makes staged blobs whole, together with those of other callers. All of a caller's become whole, or none.
    ///
    /// # Errors
    /// What went wrong, for all who were in the same commit.
    pub(super) fn commit(&self, staged: Vec<Staged>) -> Result<(), ContentError> {
        if staged.is_empty() {
            return Ok(());
        }
        let outcome = Outcome::default();
        let mut state = lock(&self.commits.state);
        state.waiting.push((staged, Arc::clone(&outcome)));
        loop {
            if let Some(result) = lock(&outcome).take() {
                return result;
            }
            if state.busy {
                state = self.commits.turn.wait(state).expect("nobody panics in a commit");
                continue;
            }
            state.busy = true;
            let (staged, outcomes): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiting).into_iter().unzip();
            drop(state);
            let result = self.make_whole(staged.iter().flatten());
            for outcome in outcomes {
                *lock(&outcome) = Some(result.clone());
            }
            state = lock(&self.commits.state);
            state.busy = false;
            self.commits.turn.notify_all();
        }
    }

    fn make_whole<'a>(&self, staged: impl Iterator<Item = &'a Staged>) -> Result<(), ContentError> {
        // One of each is enough, and what is here already needs nothing.
        let mut wanted = BTreeMap::new();
        for item in staged {
            wanted.insert(item.blob.hash, item);
        }
        self.forget_known(&mut wanted)?;
        let inline: u64 = wanted.values().map(|item| if item.is_inline() { item.blob.size } else { 0 }).sum();
        self.ensure_index_room(inline)?;
        let files: Vec<&Path> = wanted.values().flat_map(|item| item.files()).collect();
        self.sync_files(&files)?;
        fault::point("content.commit.synced");

        let _names = lock(&self.names);
        let mut moves = Moves::default();
        let result = self.move_and_index(&wanted, &mut moves);
        if result.is_err() {
            moves.undo();
        }
        result
    }

    /// Whether the file system has room for a transaction that puts so many bytes of blobs into the index.
    pub(super) fn ensure_index_room(&self, inline: u64) -> Result<(), ContentError> {
        let (wanted, free) = (inline.saturating_mul(2).saturating_add(INDEX_ROOM_BYTES), self.layout.free()?);
        if wanted <= free {
            return Ok(());
        }
        Err(ContentError::NoSpace { dir: self.layout.dir().to_owned(), wanted, free, reserve: 0 })
    }

    /// Leaves out what is held already: its files may have been moved by an earlier commit.
    fn forget_known(&self, wanted: &mut BTreeMap<BlobHash, &Staged>) -> Result<(), ContentError> {
        self.index.read(|txn| {
            let blobs = txn.open_table(BLOBS)?;
            let mut known = BTreeSet::new();
            for hash in wanted.keys() {
                if let Some(row) = blobs.get(hash.as_bytes())?
                    && !index::decode_row(row.value())?.damaged
                {
                    known.insert(*hash);
                }
            }
            wanted.retain(|hash, _| !known.contains(hash));
            Ok(())
        })
    }

    fn move_and_index(&self, wanted: &BTreeMap<BlobHash, &Staged>, moves: &mut Moves) -> Result<(), ContentError> {
        for (hash, item) in wanted {
            if let StagedBytes::Files { data, outboard } = &item.bytes {
                moves.rename(&data.path, self.layout.blob(hash))?;
                fault::point("content.commit.moved");
                moves.rename(&outboard.path, self.layout.outboard(hash))?;
            }
        }
        self.sync_dirs(&moves.dirs())?;
        fault::point("content.commit.renamed");
        let now = self.clock.now();
        let blobs = wanted.values().map(|item| match &item.bytes {
            StagedBytes::Inline(bytes) => (item.blob, Some(bytes.as_slice())),
            StagedBytes::Files { .. } => (item.blob, None),
        });
        self.index.write(|txn| index::insert(txn, now, blobs))?;
        fault::point("content.commit.indexed");
        self.arrivals.send_replace(());
        Ok(())
    }

    fn sync_files(&self, files: &[&Path]) -> Result<(), ContentError> {
        if files.len() > SINGLE_SYNCS {
            return self.sync_file_system();
        }
        files.iter().try_for_each(|path| {
            File::open(path).and_then(|file| file.sync_data()).map_err(|error| self.layout.write_error("sync", path, 0, error))
        })
    }

    fn sync_dirs(&self, dirs: &BTreeSet<PathBuf>) -> Result<(), ContentError> {
        if dirs.len() > SINGLE_SYNCS { self.sync_file_system() } else { dirs.iter().try_for_each(|dir| sync_dir(dir)) }
    }

    fn sync_file_system(&self) -> Result<(), ContentError> {
        let dir = self.layout.dir();
        File::open(dir)
            .and_then(|file| Ok(rustix::fs::syncfs(file)?))
            .map_err(|error| self.layout.write_error("sync the file system of", dir, 0, error))
    }
}

impl Staged {
    fn is_inline(&self) -> bool {
        matches!(self.bytes, StagedBytes::Inline(_))
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let files = match &self.bytes {
            StagedBytes::Inline(_) => [None, None],
            StagedBytes::Files { data, outboard } => [Some(data), Some(outboard)],
        };
        files.into_iter().flatten().map(|staged| staged.path.as_path())
    }
}

/// The renames of one commit, to be undone when it fails.
#[derive(Default)]
struct Moves(Vec<(PathBuf, PathBuf)>);

impl Moves {
    fn rename(&mut self, from: &Path, to: PathBuf) -> Result<(), ContentError> {
        fs::rename(from, &to).map_err(ContentError::io("rename", from))?;
        self.0.push((from.to_owned(), to));
        Ok(())
    }

    fn undo(&self) {
        for (from, to) in &self.0 {
            // What cannot be moved back is an orphan, which the next check takes in or removes.
            let _ = fs::rename(to, from);
        }
    }

    /// The directories that names came into.
    fn dirs(&self) -> BTreeSet<PathBuf> {
        self.0.iter().filter_map(|(_, to)| to.parent()).map(Path::to_owned).collect()
    }
}
