//! What of a blob can be copied from where, and what is to be asked for. Pure: what is here is told to it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use crate::content::{Chunk, MAX_BLOCK_BYTES};
use crate::network::wire::Runs;

/// Bytes of one range that is asked for: what of it has come when the link is cut, is lost.
const RANGE_BYTES: u64 = 32 * 1024;
/// Bytes of one request for ranges.
const REQUEST_BYTES: u64 = 256 * 1024;

/// Some chunks in a row, and their bytes in the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where its first byte is.
    pub(super) at: u64,
    /// How many bytes.
    pub(super) length: u64,
    /// Which chunks of the recipe.
    pub(super) chunks: Range<usize>,
}

impl Piece {
    fn takes(&mut self, next: &Self, most: u64) -> bool {
        let takes = self.chunks.end == next.chunks.start && self.length + next.length <= most;
        if takes {
            self.chunks.end = next.chunks.end;
            self.length += next.length;
        }
        takes
    }
}

/// A piece that another blob has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    /// Which of the blobs that were offered.
    pub(super) from: usize,
    /// Where it is there.
    pub(super) offset: u64,
    /// What it is.
    pub(super) piece: Piece,
}

/// The chunks that are not in their place, in order, one piece each.
fn wanting<'a>(chunks: &'a [Chunk], have: &'a [bool]) -> impl Iterator<Item = (Chunk, Piece)> + 'a {
    let mut at = 0;
    chunks.iter().zip(have).enumerate().filter_map(move |(index, (chunk, have))| {
        let piece = Piece { at, length: u64::from(chunk.length), chunks: index..index + 1 };
        at += piece.length;
        (!have).then_some((*chunk, piece))
    })
}

/// Looks for chunks in other blobs.
#[derive(Debug)]
pub(super) struct Finder {
    places: HashMap<(u64, u16), Option<(usize, u64)>>,
}

impl Finder {
    /// Wants those of the chunks that are not in their place.
    pub(super) fn new(chunks: &[Chunk], have: &[bool]) -> Self {
        Self { places: wanting(chunks, have).map(|(chunk, _)| ((chunk.hash, chunk.length), None)).collect() }
    }

    /// A blob consists of these.
    pub(super) fn offer(&mut self, from: usize, chunks: &[Chunk]) {
        let mut offset = 0;
        for chunk in chunks {
            if let Entry::Occupied(mut place) = self.places.entry((chunk.hash, chunk.length)) {
                place.get_mut().get_or_insert((from, offset));
            }
            offset += u64::from(chunk.length);
        }
    }

    /// What to copy, in the order of the blob.
    pub(super) fn copies(&self, chunks: &[Chunk], have: &[bool]) -> Vec<Copy> {
        let mut copies: Vec<Copy> = Vec::new();
        for (chunk, piece) in wanting(chunks, have) {
            let Some(Some((from, offset))) = self.places.get(&(chunk.hash, chunk.length)).copied() else { continue };
            let joins = |last: &mut Copy| {
                last.from == from && last.offset + last.piece.length == offset && last.piece.takes(&piece, MAX_BLOCK_BYTES)
            };
            if !copies.last_mut().is_some_and(joins) {
                copies.push(Copy { from, offset, piece });
            }
        }
        copies
    }
}

/// What to ask for, request by request.
pub(super) fn requests(chunks: &[Chunk], have: &[bool]) -> Vec<Vec<Piece>> {
    let mut requests: Vec<Vec<Piece>> = Vec::new();
    let mut bytes = 0;
    for (_, piece) in wanting(chunks, have) {
        bytes += piece.length;
        match requests.last_mut() {
            Some(request) if bytes <= REQUEST_BYTES && request.len() < Runs::MAX_RUNS => {
                if !request.last_mut().is_some_and(|last| last.takes(&piece, RANGE_BYTES)) {
                    request.push(piece);
                }
            }
            _ => {
                bytes = piece.length;
                requests.push(vec![piece]);
            }
        }
    }
    requests
}

/// Bytes of pieces.
pub(super) fn bytes_of<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> u64 {
    pieces.into_iter().map(|piece| piece.length).sum()
}
