//! A blob on its way from an upstream: one writer fills a file, many readers follow it, each from where it wants and as fast as it
//! can. No lock is held while bytes are read or written, and nobody waits for a reader. The last bytes are given only once the
//! digest of the whole is found to be right: nobody ends up with all of what is something else.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::watch;

use super::arriving::WITHHELD;
use super::{Held, RegistryError, blocking};
use crate::content::SpoolReader;
use crate::oci::Digest;

/// A blob on its way. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Flight {
    digest: Digest,
    size: u64,
    bytes: Arc<SpoolReader>,
    state: watch::Receiver<State>,
}

/// How far it is.
#[derive(Debug, Clone)]
struct State {
    /// Bytes that have come.
    come: u64,
    end: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    Held(Held),
    Failed(RegistryError),
}

/// The writer's side: when it goes without a word, readers are told that nobody fetches the blob any more.
#[derive(Debug)]
pub(super) struct Pilot(watch::Sender<State>);

impl Flight {
    /// Begins to give out what comes into a spool.
    pub(super) fn begin(digest: Digest, size: u64, bytes: SpoolReader) -> (Pilot, Self) {
        let (sender, state) = watch::channel(State { come: 0, end: None });
        (Pilot(sender), Self { digest, size, bytes: Arc::new(bytes), state })
    }

    /// Its size in bytes, as the upstream says.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of it that have come.
    #[must_use]
    pub fn come(&self) -> u64 {
        self.state.borrow().come
    }

    /// Waits until it is whole, what its digest says, and the repository's.
    ///
    /// # Errors
    /// [`RegistryError::NotComing`], [`RegistryError::DigestDiffers`], or what the store fails with.
    pub async fn settle(&self) -> Result<Held, RegistryError> {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| state.end.is_some()).await;
        match ended.ok().and_then(|state| state.end.clone()) {
            Some(End::Held(held)) => Ok(held),
            Some(End::Failed(error)) => Err(error),
            None => Err(self.abandoned()),
        }
    }

    /// Reads some of a range once it has come: at least a byte, at most `most`, and none of an empty range.
    ///
    /// # Errors
    /// Those of [`Flight::settle`].
    pub async fn read(&self, range: Range<u64>, most: usize) -> Result<Vec<u8>, RegistryError> {
        let end = range.end.min(self.size).min(range.start.saturating_add(most as u64));
        if range.start >= end {
            return Ok(Vec::new());
        }
        let withheld = self.size.saturating_sub(WITHHELD);
        let there = if range.start >= withheld {
            self.settle().await?.size
        } else {
            let mut state = self.state.clone();
            let moved = state.wait_for(|state| state.come > range.start || state.end.is_some()).await;
            let state = moved.map_err(|_| self.abandoned())?.clone();
            match state.end {
                Some(End::Held(held)) => held.size,
                // What came before stays readable no longer: the sooner a reader hears of it the better.
                Some(End::Failed(error)) => return Err(error),
                None => state.come.min(withheld),
            }
        };
        let (bytes, start, length) = (Arc::clone(&self.bytes), range.start, end.min(there) - range.start);
        blocking(move || Ok(bytes.read_at(start, usize::try_from(length).expect("at most what was asked for"))?)).await
    }

    fn abandoned(&self) -> RegistryError {
        RegistryError::NotComing { digest: self.digest, why: "nobody fetches it any more".to_owned() }
    }
}

impl Pilot {
    /// So many bytes have come.
    pub(super) fn come(&self, bytes: u64) {
        self.0.send_modify(|state| state.come = bytes);
    }

    /// It is whole and right, and the repository's; or it is not, and why.
    pub(super) fn end(&self, outcome: Result<Held, RegistryError>) {
        let end = outcome.map_or_else(End::Failed, End::Held);
        self.0.send_modify(|state| state.end = Some(end));
    }
}
