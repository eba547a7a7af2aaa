//! An assembly whose bytes are put together by a recipe, from other blobs here and what is fetched: a draft of the blob.
//!
//! Nothing of a draft is held until all of it is there and was hashed: then everything is at once, or nothing. So nobody is
//! served from one, and its bytes vouch for nothing. They and the recipe stay on disk when it is dropped, to be continued.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::super::layout::{self, DATA, OUTBOARD, RECIPE};
use super::super::recipe::{Chunk, Recipe};
use super::super::similar::read_recipe;
use super::{Assembly, ContentError, End, Storage, Taken, lock, tree};
use crate::fault;

/// A draft. While it lives, all of its assembly is taken.
#[derive(Debug)]
pub(crate) struct Draft {
    taken: Taken,
}

impl Assembly {
    /// Begins, or goes on with, a draft. `None` when something is held, or being fetched by others, and when an earlier draft was
    /// not the blob.
    pub(crate) fn draft(&self) -> Option<Draft> {
        let shared = &*self.0;
        let progress = &mut *lock(&shared.progress);
        let groups = 0..progress.held.count();
        let is_free = progress.end.is_none() && progress.held.len() == 0 && !progress.taken.contains_any(&groups);
        let may = is_free && matches!(shared.storage, Storage::Files { .. }) && !shared.slot.misled.load(Ordering::Relaxed);
        may.then(|| {
            progress.taken.insert(&groups);
            Draft { taken: Taken { assembly: self.clone(), groups } }
        })
    }
}

impl Assembly {
    /// Whether a draft of it was begun and left, to be gone on with when somebody has all of it.
    pub(crate) fn keeps_recipe(&self) -> bool {
        self.held() == 0 && self.0.path(RECIPE).exists()
    }

    /// Whether there is a draft of it, which somebody still works on.
    pub(crate) fn is_drafted(&self) -> bool {
        let progress = lock(&self.0.progress);
        progress.end.is_none() && progress.held.len() == 0 && progress.held.count() > 1 && progress.taken.is_all()
    }
}

impl Draft {
    /// The recipe that an earlier run left beside the assembly.
    pub(crate) fn kept_recipe(&self) -> Option<Recipe> {
        let shared = &*self.taken.assembly.0;
        read_recipe(&shared.path(RECIPE), &shared.hash, shared.size)
    }

    /// Puts the recipe beside the assembly, durably.
    ///
    /// # Errors
    /// `NoSpace`, or what the file failed with.
    pub(crate) fn keep_recipe(&self, recipe: &Recipe) -> Result<(), ContentError> {
        let shared = &*self.taken.assembly.0;
        let path = shared.path(RECIPE);
        let fail = |error| shared.content.0.layout.write_error("write", &path, 0, error);
        fs::write(&path, recipe.to_file(&shared.hash)).map_err(fail)?;
        fs::File::open(&path).and_then(|file| file.sync_data()).map_err(fail)?;
        layout::sync_dir(&shared.content.0.layout.assembly_dir())?;
        fault::point("content.draft.begun");
        Ok(())
    }

    /// Says of each chunk whether it is in its place. One that cannot be read is not: it is written anew.
    ///
    /// # Errors
    /// `Absent` when there is no file.
    pub(crate) fn look(&self, chunks: &[Chunk]) -> Result<Vec<bool>, ContentError> {
        let (file, mut at, mut bytes) = (self.file()?, 0, Vec::new());
        let look = |chunk: &Chunk| {
            bytes.resize(usize::from(chunk.length), 0);
            let is = file.read_exact_at(&mut bytes, at).is_ok() && chunk.is(&bytes);
            at += u64::from(chunk.length);
            is
        };
        Ok(chunks.iter().map(look).collect())
    }

    /// Writes bytes that are taken for right. Whoever writes calls [`Assembly::keep_up`] now and then.
    ///
    /// # Errors
    /// `Abandoned`, `NoSpace`, or what the file failed with.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ContentError> {
        let shared = &*self.taken.assembly.0;
        if let Some(End::Abandoned) = lock(&shared.progress).end {
            return Err(ContentError::Abandoned(shared.hash));
        }
        shared.content.0.write_at(self.file()?, &shared.path(DATA), bytes, at)?;
        fault::point("content.draft.written");
        shared.unsynced.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Holds what is there against the blob's hash: if it is the blob, all of it is held from then on. If not, the recipe goes,
    /// nothing is held, and there is no other draft of the blob. Says which.
    ///
    /// # Errors
    /// What the files failed with; then the draft is as it was.
    pub(crate) fn complete(&self) -> Result<bool, ContentError> {
        let shared = &*self.taken.assembly.0;
        let Storage::Files { data, outboard, .. } = &shared.storage else { return Ok(false) };
        let (mut at, mut hasher) = (0, Sha256::new());
        let mut next = |length: usize| {
            let mut bytes = vec![0; length];
            data.read_exact_at(&mut bytes, at).map_err(|error| self.unreadable(error))?;
            hasher.update(&bytes);
            at += length as u64;
            Ok(Arc::new(bytes))
        };
        let path = shared.path(OUTBOARD);
        let mut write = |at: u64, pairs: &[u8]| shared.content.0.write_at(outboard, &path, pairs, at);
        if tree::build(shared.size, &mut next, &mut write)? != *shared.hash.as_bytes() {
            shared.slot.misled.store(true, Ordering::Relaxed);
            layout::remove(&shared.path(RECIPE))?;
            return Ok(false);
        }
        *lock(&shared.sha256) = super::Sha256Prefix { hasher, position: shared.size };
        shared.sync()?;
        fault::point("content.draft.hashed");
        let groups: Range<u64> = self.taken.groups.clone();
        shared.hold(&groups)?;
        Ok(true)
    }

    fn file(&self) -> Result<&fs::File, ContentError> {
        match &self.taken.assembly.0.storage {
            Storage::Files { data, .. } => Ok(data),
            Storage::Memory(_) => Err(ContentError::Absent(self.taken.assembly.hash())),
        }
    }

    fn unreadable(&self, error: std::io::Error) -> ContentError {
        ContentError::io("read", &self.taken.assembly.0.path(DATA))(error)
    }
}
