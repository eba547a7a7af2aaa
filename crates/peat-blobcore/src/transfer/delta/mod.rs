//! Puts a blob together from chunks that other blobs here have, and fetches only what none has. The blob's hash decides at the
//! end: until then nothing of it is held, and whatever goes wrong costs no more than that the blob is fetched as others are.
//!
//! - `ask`: the recipe and the ranges, from a holder; `answer`: what a holder sends
//! - `plan`: what to copy, and what to ask for; `fill` copies it
mod answer;
mod ask;
mod fill;
mod plan;
#[cfg(test)]
mod tests;

pub(super) use answer::{Frames, range_frames, recipe_frames};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use self::ask::Holder;
use self::fill::{Filled, are, fill, known_segments};
use self::plan::Piece;
use super::fetch::{OnProgress, Order, REQUESTS};
use super::sources::Candidate;
use super::{FetchError, Traffic, blocking};
use crate::content::{Assembly, ContentError, Draft, RECIPE_SIZES, Recipe};
use crate::model::{BlobHash, EndpointId, Priority};

/// Bytes of blobs that nobody has looked at yet which may be looked at for one fetch: as many times its own, or this many.
const SKETCH_TIMES: u64 = 2;
const SKETCH_BYTES: u64 = 64 * 1024 * 1024;
/// If less than this part of a blob is here, in hundredths, it is fetched as others are.
const LEAST_PART: u64 = 10;

/// Tries to make an assembly whole with what other blobs here have. When it returns without an error and the assembly is not whole,
/// it is to be fetched.
///
/// # Errors
/// When this node's store fails, or the holders are out of reach in the midst of it; what had come is kept.
pub(super) async fn fetch(order: &Order, assembly: &Assembly, on_progress: &OnProgress<'_>) -> Result<(), FetchError> {
    if !RECIPE_SIZES.contains(&order.size) {
        return Ok(());
    }
    // What a cancelled attempt still does in the background is gone on with, not fetched anew.
    let Some(draft) = assembly.draft() else { return if assembly.is_drafted() { Err(FetchError::Busy) } else { Ok(()) } };
    let work = Work { order, assembly, draft: Arc::new(draft), on_progress };
    work.run().await
}

/// One attempt.
struct Work<'a> {
    order: &'a Order,
    assembly: &'a Assembly,
    draft: Arc<Draft>,
    on_progress: &'a OnProgress<'a>,
}

impl Work<'_> {
    async fn run(self) -> Result<(), FetchError> {
        let (blob, content, draft) = (self.order.blob, self.order.content.clone(), Arc::clone(&self.draft));
        let kept = blocking(move || Ok(draft.kept_recipe())).await?;
        let is_new = kept.is_none();
        let learnt = match kept {
            Some(recipe) => Some((recipe, None)),
            None => self.learn().await?,
        };
        let Some((recipe, from)) = learnt else { return Ok(()) };
        let (recipe, assembly, draft) = (Arc::new(recipe), self.assembly.clone(), Arc::clone(&self.draft));
        let (here, least) = (Arc::clone(&recipe), is_new.then(|| self.least()));
        let filled = blocking(move || fill(&content, &assembly, &draft, &here, least)).await?;
        let Some(Filled { have, copied }) = filled else { return Ok(()) };
        self.order.traffic.copied(copied);
        if !self.bring(&recipe, &have).await? {
            return Ok(());
        }
        let draft = self.draft;
        if !blocking(move || draft.complete()).await? {
            let from = from.map_or_else(|| "an earlier run".to_owned(), |from| from.to_string());
            tracing::warn!(%blob, %from, "what was made by a recipe is not the blob: all of it is fetched");
        }
        Ok(())
    }

    /// Those who have all of the blob.
    fn holders(&self) -> Vec<Candidate> {
        self.order.candidates.borrow().iter().filter(|candidate| candidate.whole).cloned().collect()
    }

    /// Bytes that must be here. What is fetched by a recipe comes from those who have all, once for each who fetches; who fetches as
    /// others do shares with them, so that it leaves those little more than once.
    fn least(&self) -> u64 {
        let fetching = self.order.candidates.borrow().iter().filter(|candidate| !candidate.whole).count() as u64;
        let size = self.order.size;
        (size * LEAST_PART / 100).max(size - size / (fetching + 1))
    }

    /// The recipe, and who told it; nothing when nothing similar seems to be here, or nobody tells.
    async fn learn(&self) -> Result<Option<(Recipe, Option<EndpointId>)>, FetchError> {
        let Order { content, blob, size, patience, traffic, priority, .. } = self.order;
        let Some(Candidate { id, connection, .. }) = self.holders().into_iter().next() else { return Ok(None) };
        let pace = traffic.limiter.down(id, *priority);
        let holder = Holder { connection: &connection, blob: *blob, patience: *patience, traffic, pace };
        let (budget, store) = ((SKETCH_TIMES * size).max(SKETCH_BYTES), content.clone());
        match blocking(move || store.sketch(budget)).await {
            Ok(true) => {}
            Err(FetchError::Stopped) => return Err(FetchError::Stopped),
            Ok(false) => return Ok(None),
            // That others cannot be read does not keep this one from coming.
            Err(error) => {
                tracing::debug!(%blob, %error, "cannot look for what is similar");
                return Ok(None);
            }
        }
        match self.ask(&holder).await {
            Ok(recipe) => Ok(recipe.map(|recipe| (recipe, Some(id)))),
            Err(error @ (FetchError::Content(_) | FetchError::Stopped)) => Err(error),
            Err(error) => {
                tracing::debug!(%blob, source = %id.short(), %error, "it does not tell a recipe");
                Ok(None)
            }
        }
    }

    async fn ask(&self, holder: &Holder<'_>) -> Result<Option<Recipe>, FetchError> {
        let (size, content) = (self.order.size, self.order.content.clone());
        let outline = Arc::new(holder.outline(size).await?);
        let asked = Arc::clone(&outline);
        let Some(mut known) = blocking(move || known_segments(&content, &asked)).await? else { return Ok(None) };
        let unknown: Vec<usize> = (0..outline.len()).filter(|at| !known.contains_key(&outline[*at].hash)).collect();
        for (at, chunks) in unknown.iter().zip(holder.chunks(&outline, &unknown).await?) {
            known.insert(outline[*at].hash, chunks);
        }
        let chunks = outline.iter().filter_map(|segment| known.get(&segment.hash)).flatten().copied().collect();
        Ok(Recipe::of_chunks(chunks, size))
    }

    /// Fetches the chunks that are not in their place. Says whether all are in the end: if not, nobody gives them this way.
    async fn bring(&self, recipe: &Arc<Recipe>, have: &[bool]) -> Result<bool, FetchError> {
        let mut queue: VecDeque<Vec<Piece>> = plan::requests(recipe.chunks(), have).into();
        let mut bytes = self.order.size - plan::bytes_of(queue.iter().flatten());
        let (mut requests, mut upkeep) = (JoinSet::new(), JoinSet::new());
        let (mut left, mut turn, mut last) = (Vec::new(), 0, None);
        loop {
            (self.on_progress)(bytes);
            while requests.len() < REQUESTS && !queue.is_empty() {
                let mut holders = self.holders();
                holders.retain(|holder| !left.contains(&(holder.id, holder.connection.stable_id())));
                turn += 1;
                let Some(holder) = holders.get(turn % holders.len().max(1)).cloned() else { break };
                let pieces = queue.pop_front().unwrap_or_default();
                let request = Request {
                    blob: self.order.blob,
                    patience: self.order.patience,
                    priority: self.order.priority,
                    traffic: Arc::clone(&self.order.traffic),
                    draft: Arc::clone(&self.draft),
                    recipe: Arc::clone(recipe),
                };
                requests.spawn(request.run(holder, pieces));
            }
            tokio::select! {
                Some(ended) = requests.join_next() => {
                    let Ended { holder, rest, came, outcome } = ended.map_err(|_| FetchError::Stopped)?;
                    bytes += came;
                    match outcome {
                        Ok(()) => {}
                        Err(FetchError::Content(error)) if !matches!(error, ContentError::Corrupt(_)) => return Err(error.into()),
                        Err(FetchError::Stopped) => return Err(FetchError::Stopped),
                        Err(error) => {
                            tracing::info!(blob = %self.order.blob, source = %holder.id.short(), %error, "it gives no ranges");
                            left.push((holder.id, holder.connection.stable_id()));
                            queue.push_front(rest);
                            last = Some(error);
                        }
                    }
                    if upkeep.is_empty() {
                        let assembly = self.assembly.clone();
                        upkeep.spawn_blocking(move || assembly.keep_up());
                    }
                }
                Some(ended) = upkeep.join_next() => ended.map_err(|_| FetchError::Stopped)??,
                else => break,
            }
        }
        match last {
            _ if queue.is_empty() => Ok(true),
            // They may be back: what has come waits for them.
            Some(error @ (FetchError::Unreachable(_) | FetchError::Stalled | FetchError::Later)) => Err(error),
            _ => Ok(false),
        }
    }
}

/// One request for pieces.
struct Request {
    blob: BlobHash,
    patience: Duration,
    priority: Priority,
    traffic: Arc<Traffic>,
    draft: Arc<Draft>,
    recipe: Arc<Recipe>,
}

/// How it ended.
struct Ended {
    holder: Candidate,
    /// What did not come.
    rest: Vec<Piece>,
    /// Bytes that did.
    came: u64,
    outcome: Result<(), FetchError>,
}

impl Request {
    async fn run(self, holder: Candidate, mut rest: Vec<Piece>) -> Ended {
        let asked = plan::bytes_of(&rest);
        let outcome = self.pieces(&holder, &mut rest).await;
        Ended { holder, came: asked - plan::bytes_of(&rest), rest, outcome }
    }

    /// Asks for pieces, and takes each away once it is written.
    async fn pieces(&self, holder: &Candidate, rest: &mut Vec<Piece>) -> Result<(), FetchError> {
        let Self { blob, patience, priority, ref traffic, .. } = *self;
        let pace = traffic.limiter.down(holder.id, priority);
        let holder = Holder { connection: &holder.connection, blob, patience, traffic, pace };
        let mut recv = holder.ask_for(rest).await?;
        while let Some(piece) = rest.first().cloned() {
            let bytes = holder.piece(&mut recv, &piece).await?;
            let (draft, recipe) = (Arc::clone(&self.draft), Arc::clone(&self.recipe));
            blocking(move || {
                if !are(&recipe.chunks()[piece.chunks], &bytes) {
                    return Err(ContentError::Corrupt(blob));
                }
                draft.write(piece.at, &bytes)
            })
            .await?;
            rest.remove(0);
        }
        Ok(())
    }
}
