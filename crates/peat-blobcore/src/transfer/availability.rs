//! Which parts of a blob a node has that does not have all of it yet: asked for, told, and told again as more comes. What is
//! said is a claim: a byte counts when its hash vouches for it.

use std::ops::Range;
use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;

use super::{FetchError, blocking};
use crate::content::Content;
use crate::model::{BlobHash, EndpointId};
use crate::network::wire::{AvailabilityRequest, Available, GROUP_BYTES, Request, WireError, read_frame, write_frame};

/// How often a node looks for what is new.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// As many new groups are told at once...
const NEWS_GROUPS: u64 = 8;
/// ...and fewer after this time, so that what is told stays below a hundredth of what it is about.
const NEWS_INTERVAL: Duration = Duration::from_millis(500);
/// Who has come to have nothing more for so long is asked again when there is something: what is held open is let go.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);

/// What a peer has come to have.
#[derive(Debug)]
pub(super) struct News {
    pub(super) source: EndpointId,
    /// Over which connection it says so.
    pub(super) key: usize,
    /// The groups; nothing when it does not say any more.
    pub(super) runs: Option<Vec<Range<u64>>>,
}

/// Tells a peer what is here of a blob, until all is or the peer has heard enough.
///
/// # Errors
/// [`WireError`] when the peer leaves; it concerns this stream alone.
pub(super) async fn tell(content: Content, blob: BlobHash, mut send: SendStream) -> Result<(), WireError> {
    // What an earlier run left is not open while nobody fetches it here. Whoever cannot open it has nothing to say.
    let store = content.clone();
    let _open = blocking(move || store.resume(&blob)).await;
    // Who waits for the first word learns that it is heard.
    write_frame(&mut send, &Available { runs: Vec::new() }.encode()).await?;
    let (mut told, mut told_at) = (Vec::new(), Instant::now());
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            _ = send.stopped() => return Ok(()),
            _ = look.tick() => {}
        }
        let content = content.clone();
        let Ok((held, whole)) = blocking(move || held_groups(&content, &blob)).await else { return Ok(()) };
        let news = without(&held, &told);
        let groups: u64 = news.iter().map(|run| run.end - run.start).sum();
        if whole || groups >= NEWS_GROUPS || groups > 0 && told_at.elapsed() >= NEWS_INTERVAL {
            for runs in news.chunks(Available::MAX_RUNS) {
                let runs = runs.iter().map(|run| (run.start, run.end - run.start)).collect();
                write_frame(&mut send, &Available { runs }.encode()).await?;
            }
            (told, told_at) = (held, Instant::now());
        }
        if whole || told_at.elapsed() >= LONGEST_SILENCE {
            let _ = send.finish();
            return Ok(());
        }
    }
}

/// The groups that can be served, and whether that is all of them.
fn held_groups(content: &Content, blob: &BlobHash) -> Result<(Vec<Range<u64>>, bool), crate::content::ContentError> {
    let whole = content.holds(blob)?;
    let groups = |bytes: Range<u64>| bytes.start / GROUP_BYTES..bytes.end.div_ceil(GROUP_BYTES);
    Ok((content.held_ranges(blob)?.into_iter().map(groups).collect(), whole))
}

/// Asks a peer what it has of a blob, and tells of what it answers for as long as it does.
pub(super) async fn ask(source: EndpointId, connection: Connection, blob: BlobHash, tell: mpsc::Sender<News>) {
    let key = connection.stable_id();
    let told = async {
        let (mut send, recv) = connection.open_bi().await.map_err(FetchError::connection)?;
        write_frame(&mut send, &Request::Availability(AvailabilityRequest { blob }).encode()).await.map_err(FetchError::wire)?;
        let _ = send.finish();
        listen(source, key, recv, &tell).await.map_err(FetchError::wire)
    };
    if let Err(error) = told.await {
        tracing::debug!(%blob, source = %source.short(), %error, "it does not say what it has");
    }
    // Who waits for it may be gone.
    let _ = tell.send(News { source, key, runs: None }).await;
}

async fn listen(source: EndpointId, key: usize, mut recv: RecvStream, tell: &mpsc::Sender<News>) -> Result<(), WireError> {
    loop {
        let frame = Available::decode(&read_frame(&mut recv, Available::MAX_BYTES).await?)?;
        let runs = frame.runs.into_iter().map(|(start, groups)| start..start.saturating_add(groups)).collect();
        if tell.send(News { source, key, runs: Some(runs) }).await.is_err() {
            return Ok(());
        }
    }
}

/// What is in `all` and not in `less`; both are in order, and so is the result.
fn without(all: &[Range<u64>], less: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut rest, mut less) = (Vec::new(), less.iter().peekable());
    for run in all {
        let mut start = run.start;
        while let Some(other) = less.peek().filter(|other| other.start < run.end) {
            if other.start > start {
                rest.push(start..other.start);
            }
            start = start.max(other.end);
            if other.end > run.end {
                break;
            }
            less.next();
        }
        if start < run.end {
            rest.push(start..run.end);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs(groups: &BTreeSet<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for group in groups {
            match runs.last_mut().filter(|run| run.end == *group) {
                Some(run) => run.end += 1,
                None => runs.push(*group..group + 1),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn news_are_what_was_not_told_before(
            held in proptest::collection::btree_set(0..64_u64, 0..64),
            told in proptest::collection::btree_set(0..64_u64, 0..64),
        ) {
            let news: BTreeSet<u64> = without(&runs(&held), &runs(&told)).into_iter().flatten().collect();
            prop_assert_eq!(news, held.difference(&told).copied().collect::<BTreeSet<u64>>());
        }
    }
}
