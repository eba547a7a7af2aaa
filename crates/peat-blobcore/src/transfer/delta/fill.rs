//! Copies into a draft what other blobs here have of it. Blocks on the disk. What is read is verified, and then held against the
//! recipe, before it is written.

use std::collections::{HashMap, HashSet};

use super::plan::{self, Copy, Finder};
use crate::content::{Assembly, Chunk, Content, ContentError, Draft, Recipe, Segment};

/// Whether these bytes are these chunks, as far as their hashes tell.
pub(super) fn are(chunks: &[Chunk], mut bytes: &[u8]) -> bool {
    let mut is = |chunk: &Chunk| bytes.split_off(..usize::from(chunk.length)).is_some_and(|bytes| chunk.is(bytes));
    chunks.iter().all(&mut is) && bytes.is_empty()
}

/// The chunks of those segments that similar blobs here have, by the segment's hash; nothing when no blob is similar.
pub(super) fn known_segments(content: &Content, outline: &[Segment]) -> Result<Option<HashMap<u64, Vec<Chunk>>>, ContentError> {
    let similar = content.similar(outline)?;
    let wanted: HashSet<u64> = outline.iter().map(|segment| segment.hash).collect();
    let mut known = HashMap::new();
    for blob in &similar {
        let Ok(Some(recipe)) = content.recipe(blob) else { continue };
        for chunks in recipe.segments() {
            let hash = Segment::of(chunks).hash;
            if wanted.contains(&hash) {
                known.entry(hash).or_insert_with(|| chunks.to_vec());
            }
        }
    }
    Ok((!similar.is_empty()).then_some(known))
}

/// What of a draft is there.
pub(super) struct Filled {
    /// For each chunk, whether it is in its place.
    pub(super) have: Vec<bool>,
    /// Bytes that were copied.
    pub(super) copied: u64,
}

/// Begins a draft, or looks what an earlier run left of it, and copies what other blobs have. Nothing when these have less than `least`,
/// which only a new one is asked for.
pub(super) fn fill(
    content: &Content,
    assembly: &Assembly,
    draft: &Draft,
    recipe: &Recipe,
    least: Option<u64>,
) -> Result<Option<Filled>, ContentError> {
    let chunks = recipe.chunks();
    let mut have = if least.is_some() { vec![false; chunks.len()] } else { draft.look(chunks)? };
    let (mut readers, mut finder) = (Vec::new(), Finder::new(chunks, &have));
    for blob in content.similar(&recipe.outline())? {
        // One that was collected or found damaged meanwhile has nothing to give.
        if let (Ok(reader), Ok(Some(recipe))) = (content.open_blob(&blob), content.recipe(&blob)) {
            finder.offer(readers.len(), recipe.chunks());
            readers.push(reader);
        }
    }
    let copies = finder.copies(chunks, &have);
    if let Some(least) = least {
        if plan::bytes_of(copies.iter().map(|copy| &copy.piece)) < least {
            return Ok(None);
        }
        draft.keep_recipe(recipe)?;
    }
    let mut copied = 0;
    for Copy { from, offset, piece } in copies {
        let Ok(bytes) = readers[from].read_range(offset..offset + piece.length) else { continue };
        if are(&chunks[piece.chunks.clone()], &bytes) {
            draft.write(piece.at, &bytes)?;
            have[piece.chunks].fill(true);
            copied += piece.length;
            assembly.keep_up()?;
        }
    }
    Ok(Some(Filled { have, copied }))
}
