//! Which of the blobs here have something in common with one that is not: recipes, made when they are first asked for, and a
//! sparse index of hooks, which are the ends of segments (Lillibridge et al., "Sparse Indexing", FAST 2009).
//!
//! Taking blobs in makes nothing of it. Whatever is kept here can be lost and made again; it is never believed in place of a hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use redb::ReadableTable as _;

use super::commit::INDEX_ROOM_BYTES;
use super::index::{BLOBS, HOOKS, SKETCHES, UNSKETCHED};
use super::keep::ALL_HASHES;
use super::recipe::{self, RECIPE_SIZES, Recipe, Segment};
use super::{BlobReader, Content, ContentError, Inner, MAX_BLOCK_BYTES};
use crate::fault;
use crate::model::BlobHash;

/// Of a blob with more segments than this, the hooks with these bits zero (above those that make them hooks) are in its sketch.
const SPARSE_ABOVE: usize = 64;
const SPARSE_BITS: u64 = 0b11 << 5;
/// Hooks of one blob that are looked for, blobs that are looked at for each, and the best of them.
const MAX_LOOKUPS: usize = 4096;
const MAX_PER_HOOK: usize = 64;
const MAX_SIMILAR: usize = 8;
/// Blobs that are sketched at once, at most.
const MAX_SKETCHED: usize = 64;

impl Content {
    /// The recipe of a blob that is held; made and kept, if it has not been before. `None` for a blob that has none: it is
    /// too small or too large, or would be cut too fine.
    ///
    /// # Errors
    /// `Absent` or `Damaged`, or what the store's files failed with.
    pub(crate) fn recipe(&self, hash: &BlobHash) -> Result<Option<Recipe>, ContentError> {
        let reader = self.open_blob(hash)?;
        if !RECIPE_SIZES.contains(&reader.size()) {
            return Ok(None);
        }
        if let Some(recipe) = read_recipe(&self.0.layout.recipe(hash), hash, reader.size()) {
            return Ok(Some(recipe));
        }
        let recipe = make(&reader)?;
        if let Some(recipe) = &recipe
            && let Err(error) = self.0.keep_recipe(hash, recipe)
        {
            tracing::debug!(blob = %hash, %error, "a recipe is not kept, and will be made again");
        }
        Ok(recipe)
    }

    /// Brings what is in no sketch yet into one, the newest blobs first, as long as they have no more than `budget` bytes. Says
    /// whether there are sketches.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub(crate) fn sketch(&self, mut budget: u64) -> Result<bool, ContentError> {
        let (new, known) = self.0.index.read(|txn| {
            let table = txn.open_table(UNSKETCHED)?;
            let newest = table.iter()?.rev().take(MAX_SKETCHED).map(|entry| {
                let (key, size) = entry?;
                let (added, hash) = key.value();
                Ok((added, BlobHash::from_bytes(*hash), size.value()))
            });
            let newest = newest.collect::<Result<Vec<_>, ContentError>>()?;
            Ok((newest, txn.open_table(SKETCHES)?.first()?.is_some()))
        })?;
        let mut sketches = Vec::new();
        for (added, hash, size) in new {
            if size > budget {
                continue;
            }
            budget -= size;
            // One that is damaged has a new place when it is whole again.
            let recipe = match self.recipe(&hash) {
                Err(error @ (ContentError::Io { .. } | ContentError::Index(_) | ContentError::Closed)) => return Err(error),
                other => other.ok().flatten(),
            };
            sketches.push((added, hash, recipe.map_or_else(BTreeSet::new, |recipe| hooks(&recipe.outline()))));
        }
        let any = known || sketches.iter().any(|(_, _, hooks)| !hooks.is_empty());
        self.0.keep_sketches(&sketches)?;
        Ok(any)
    }

    /// The blobs here that have most of the hooks of such a blob, the best first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn similar(&self, outline: &[Segment]) -> Result<Vec<BlobHash>, ContentError> {
        let step = outline.len().div_ceil(MAX_LOOKUPS).max(1);
        let mut found: BTreeMap<BlobHash, usize> = BTreeMap::new();
        self.0.index.read(|txn| {
            let table = txn.open_table(HOOKS)?;
            for segment in outline.iter().step_by(step) {
                let range = (segment.hook, ALL_HASHES.0)..=(segment.hook, ALL_HASHES.1);
                for entry in table.range(range)?.take(MAX_PER_HOOK) {
                    *found.entry(BlobHash::from_bytes(*entry?.0.value().1)).or_default() += 1;
                }
            }
            Ok(())
        })?;
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by_key(|(hash, hits)| (std::cmp::Reverse(*hits), *hash));
        Ok(found.into_iter().take(MAX_SIMILAR).map(|(hash, _)| hash).collect())
    }
}

/// Reads the recipe of a blob of this size; nothing when there is none, or it is damaged.
pub(super) fn read_recipe(path: &Path, hash: &BlobHash, size: u64) -> Option<Recipe> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(recipe::max_file_bytes(size)).read_to_end(&mut bytes).ok()?;
    Recipe::from_file(&bytes, hash, size)
}

/// Reads and verifies a blob, and cuts it.
fn make(reader: &BlobReader) -> Result<Option<Recipe>, ContentError> {
    let (mut cutter, mut at) = (recipe::Cutter::default(), 0);
    let mut buffer = vec![0; MAX_BLOCK_BYTES as usize];
    while at < reader.size() {
        let read = reader.read_at(at, &mut buffer)?;
        cutter.push(&buffer[..read]);
        at += read as u64;
    }
    Ok(Recipe::of_chunks(cutter.finish(), reader.size()))
}

/// What a blob is found by.
fn hooks(outline: &[Segment]) -> BTreeSet<u64> {
    let sparse = outline.len() > SPARSE_ABOVE;
    outline.iter().map(|segment| segment.hook).filter(|hook| !sparse || hook & SPARSE_BITS == 0).collect()
}

impl Inner {
    /// Puts a recipe beside its blob. It is not synced: a torn one is known as such.
    fn keep_recipe(&self, hash: &BlobHash, recipe: &Recipe) -> Result<(), ContentError> {
        let bytes = recipe.to_file(hash);
        self.ensure_free(bytes.len() as u64)?;
        let (file, temp) = self.layout.temp()?;
        self.write_at(&file, &temp.path, &bytes, 0)?;
        fs::rename(&temp.path, self.layout.recipe(hash)).map_err(ContentError::io("rename", &temp.path))?;
        fault::point("content.recipe.kept");
        Ok(())
    }

    fn keep_sketches(&self, sketches: &[(u64, BlobHash, BTreeSet<u64>)]) -> Result<(), ContentError> {
        if sketches.is_empty() || self.layout.free()? < INDEX_ROOM_BYTES {
            return Ok(());
        }
        self.index.write(|txn| {
            let (blobs, mut new) = (txn.open_table(BLOBS)?, txn.open_table(UNSKETCHED)?);
            let (mut table, mut by_hook) = (txn.open_table(SKETCHES)?, txn.open_table(HOOKS)?);
            for (added, hash, hooks) in sketches {
                new.remove((*added, hash.as_bytes()))?;
                // It may have been collected meanwhile.
                if hooks.is_empty() || blobs.get(hash.as_bytes())?.is_none() {
                    continue;
                }
                let bytes: Vec<u8> = hooks.iter().flat_map(|hook| hook.to_le_bytes()).collect();
                table.insert(hash.as_bytes(), bytes.as_slice())?;
                for hook in hooks {
                    by_hook.insert((*hook, hash.as_bytes()), ())?;
                }
            }
            Ok(())
        })
    }
}
