//! From an upstream into a file, over whatever happens on the way: a body that is cut off goes on where it ended, one that falls
//! silent is left for the next mirror, and what is wrong in the end is nobody's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::mirrors::{Mirror, Upstream};
use super::source::Body;
use crate::content::{Spool, Spooled};
use crate::oci::{Digest, Repository};
use crate::registry::flight::Pilot;
use crate::registry::remote::{Manifest, RemoteError};
use crate::registry::{Held, RegistryError};

/// Pieces that wait for the disk.
const WAITING: usize = 16;
/// How often in a row a fetch may fail without a byte between, for each mirror, and twice more.
const ATTEMPTS: usize = 2;
/// The pause before an attempt at a mirror that failed just now; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A manifest, from the first mirror that has it.
pub(super) async fn manifest(upstream: &Upstream, there: &Repository, digest: &Digest) -> Result<Manifest, RegistryError> {
    let mut last = None;
    for mirror in upstream.order() {
        match mirror.source.manifest(there, digest).await {
            Ok(named) => return Ok(named),
            Err(error) => last = Some(note(mirror, error)),
        }
    }
    Err(last.map_or_else(|| nowhere(digest), |error| RegistryError::Remote(Arc::new(error))))
}

/// A body that has begun, and the mirror that it is from.
pub(super) struct Opened<'a> {
    mirrors: Vec<&'a Mirror>,
    at: usize,
    body: Body,
}

impl Opened<'_> {
    pub(super) fn size(&self) -> u64 {
        self.body.size()
    }
}

/// Begins to fetch a blob from the first mirror that has it.
pub(super) async fn open<'a>(upstream: &'a Upstream, there: &Repository, digest: &Digest) -> Result<Opened<'a>, RegistryError> {
    let (mirrors, mut last) = (upstream.order(), None);
    for at in 0..mirrors.len() {
        match mirrors[at].source.blob_from(there, digest, 0).await {
            Ok(body) => return Ok(Opened { mirrors, at, body }),
            Err(error) => last = Some(note(mirrors[at], error)),
        }
    }
    Err(last.map_or_else(|| nowhere(digest), |error| RegistryError::Remote(Arc::new(error))))
}

/// Writes what comes until it is whole, and gives it to `take`, which holds it against its digest.
pub(super) async fn fill<F: Future<Output = Result<Held, RegistryError>>>(
    opened: Opened<'_>,
    (there, digest): (&Repository, &Digest),
    mut spool: Spool,
    pilot: &Arc<Pilot>,
    take: impl FnOnce(Spooled) -> F,
) -> Result<Held, RegistryError> {
    let (pieces, mut waiting) = mpsc::channel::<bytes::Bytes>(WAITING);
    let told = Arc::clone(pilot);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(piece) = waiting.blocking_recv() {
            spool.write(&piece)?;
            told.come(spool.size());
        }
        Ok::<_, RegistryError>(spool.end())
    });
    let mut source = Source { used: vec![opened.at], mirrors: opened.mirrors, at: opened.at, size: opened.body.size() };
    let came = source.pour(opened.body, there, digest, pieces).await;
    let spooled = writer.await.map_err(|_| RegistryError::Stopped)??;
    came?;
    let taken = take(spooled).await;
    let judged = match &taken {
        Ok(_) => Some(false),
        Err(RegistryError::DigestDiffers { .. }) => Some(true),
        Err(_) => None,
    };
    if let Some(lied) = judged {
        source.used.iter().for_each(|at| source.mirrors[*at].judge(lied));
    }
    taken
}

/// Where the bytes of a blob come from.
struct Source<'a> {
    mirrors: Vec<&'a Mirror>,
    at: usize,
    size: u64,
    /// The mirrors that bytes came from.
    used: Vec<usize>,
}

impl Source<'_> {
    /// Passes on every byte, from whichever mirrors it takes.
    async fn pour(
        &mut self,
        body: Body,
        there: &Repository,
        digest: &Digest,
        pieces: mpsc::Sender<bytes::Bytes>,
    ) -> Result<(), RegistryError> {
        let (mut body, mut come, mut failures, mut pause) = (Some(body), 0, 0, PAUSE);
        loop {
            let begun = come;
            let ended = match body.take() {
                Some(body) => self.drain(body, &mut come, &pieces).await,
                None => match self.mirrors[self.at].source.blob_from(there, digest, come).await {
                    Ok(body) => self.drain(body, &mut come, &pieces).await,
                    Err(error) => Err(error),
                },
            };
            if come == self.size {
                return Ok(());
            }
            let stalled = matches!(ended, Err(RemoteError::Stalled { .. }));
            // Unless the writer has ended: it says why.
            if pieces.is_closed() {
                return Ok(());
            }
            if come > begun {
                (failures, pause) = (0, PAUSE);
            }
            failures += 1;
            tracing::debug!(%digest, come, outcome = ?ended, "a body from an upstream is cut off, and goes on");
            // Who cuts a body off can be reached.
            let is_there = come > begun && !stalled;
            let last = ended.err().map(|error| if is_there { error } else { note(self.mirrors[self.at], error) });
            if failures > self.mirrors.len() * ATTEMPTS + 1 {
                let why = last.map_or_else(|| format!("it is cut off at byte {come} again and again"), |error| error.to_string());
                return Err(RegistryError::NotComing { digest: *digest, why });
            }
            if stalled || come == begun {
                self.at = (self.at + 1) % self.mirrors.len();
            }
            if failures > 1 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    async fn drain(&mut self, mut body: Body, come: &mut u64, pieces: &mpsc::Sender<bytes::Bytes>) -> Result<(), RemoteError> {
        let other = body.size() != self.size;
        while !other && *come < self.size {
            let Some(mut piece) = body.piece().await? else { break };
            piece.truncate(usize::try_from(self.size - *come).unwrap_or(usize::MAX));
            if !self.used.contains(&self.at) {
                self.used.push(self.at);
            }
            *come += piece.len() as u64;
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Has a mirror rest that cannot be reached.
pub(super) fn note(mirror: &Mirror, error: RemoteError) -> RemoteError {
    if matches!(error, RemoteError::Unreachable { .. } | RemoteError::Stalled { .. }) {
        mirror.rest();
    }
    error
}

fn nowhere(digest: &Digest) -> RegistryError {
    RegistryError::NotComing { digest: *digest, why: "no upstream has it".to_owned() }
}
