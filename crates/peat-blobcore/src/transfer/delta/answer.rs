//! What a holder answers to those who have something similar. Each step may block, and each byte of a blob is verified in it.

use std::ops::Range;

use crate::content::{Content, ContentError, Recipe, Segment};
use crate::model::BlobHash;
use crate::network::wire::MAX_BLOCK_BYTES;

/// Bytes of a frame of an outline: whole segments.
const OUTLINE_BYTES: usize = 64 * 1024 / Segment::BYTES * Segment::BYTES;

/// The frames of an answer.
pub(in crate::transfer) type Frames = Box<dyn Iterator<Item = Result<Vec<u8>, ContentError>> + Send>;

/// The chunks of runs of a blob's segments, or its outline.
///
/// # Errors
/// `Absent` when it has no recipe, or what reading it fails with.
pub(in crate::transfer) fn recipe_frames(
    content: &Content,
    blob: &BlobHash,
    runs: Vec<(u64, u64)>,
) -> Result<Frames, ContentError> {
    let recipe = content.recipe(blob)?.ok_or(ContentError::Absent(*blob))?;
    if runs.is_empty() {
        let mut bytes = Vec::new();
        recipe.outline().into_iter().for_each(|segment| segment.encode(&mut bytes));
        let frames: Vec<_> = bytes.chunks(OUTLINE_BYTES).map(|frame| Ok(frame.to_vec())).collect();
        return Ok(Box::new(frames.into_iter()));
    }
    let (blob, starts) = (*blob, starts(&recipe));
    Ok(Box::new(runs.into_iter().map(move |(first, count)| {
        let chunks = chunks_of(&starts, first, count).map(|range| &recipe.chunks()[range]);
        let mut bytes = Vec::new();
        chunks.ok_or(ContentError::Absent(blob))?.iter().for_each(|chunk| chunk.encode(&mut bytes));
        if bytes.len() as u64 > MAX_BLOCK_BYTES { Err(ContentError::Absent(blob)) } else { Ok(bytes) }
    })))
}

/// Where each segment begins, and where the last one ends.
fn starts(recipe: &Recipe) -> Vec<usize> {
    let mut starts = vec![0];
    for segment in recipe.segments() {
        starts.push(starts[starts.len() - 1] + segment.len());
    }
    starts
}

fn chunks_of(starts: &[usize], first: u64, count: u64) -> Option<Range<usize>> {
    let at = |segment: u64| starts.get(usize::try_from(segment).ok()?).copied();
    Some(at(first)?..at(first.checked_add(count)?)?)
}

/// Ranges of a blob's bytes.
///
/// # Errors
/// When the blob is not held, or cannot be read.
pub(in crate::transfer) fn range_frames(
    content: &Content,
    blob: &BlobHash,
    runs: Vec<(u64, u64)>,
) -> Result<Frames, ContentError> {
    let reader = content.open_blob(blob)?;
    Ok(Box::new(runs.into_iter().map(move |(start, length)| reader.read_range(start..start.saturating_add(length)))))
}
