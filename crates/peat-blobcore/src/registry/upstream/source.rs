//! Where an upstream's content is had from: a registry, or another node that can reach one. Both are asked the same things.

use std::sync::Arc;

use bytes::Bytes;
use n0_future::StreamExt as _;

use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest as OciManifest, Repository, Tag};
use crate::registry::remote::{self, Manifest, Remote, RemoteError};
use crate::registry::{Given, Members, Pieces, Refusal, Thing, Wanted};

/// What other nodes are called where the name of a registry is said.
const MEMBERS: &str = "other nodes";

/// A place that has content.
pub(super) enum Source {
    Registry(Remote),
    Members(Arc<dyn Members>),
}

/// A blob's bytes, as they come.
pub(super) enum Body {
    Registry(remote::Body),
    Members { size: u64, pieces: Pieces },
}

impl Source {
    /// What a tag points to.
    pub(super) async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Descriptor, RemoteError> {
        match self {
            Self::Registry(remote) => remote.resolve(repository, tag).await,
            Self::Members(members) => Ok(ask(members, repository, Thing::Tag(tag.clone())).await?.descriptor),
        }
    }

    /// A manifest that is what its digest says.
    pub(super) async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Manifest, RemoteError> {
        match self {
            Self::Registry(remote) => remote.manifest(repository, digest).await,
            Self::Members(members) => {
                let Given { descriptor, mut pieces } = ask(members, repository, Thing::Manifest(*digest)).await?;
                let mut bytes = Vec::new();
                while let Some(piece) = pieces.next().await {
                    bytes.extend_from_slice(&piece.map_err(RemoteError::NoMember)?);
                    if bytes.len() > MAX_MANIFEST_BYTES {
                        return Err(RemoteError::NoMember("a manifest is longer than any may be".to_owned()));
                    }
                }
                if !digest.is_of(&bytes) {
                    return Err(RemoteError::Mismatch { registry: MEMBERS.to_owned(), digest: *digest });
                }
                let manifest = OciManifest::parse(&bytes, Some(&descriptor.media_type));
                let manifest =
                    manifest.map_err(|source| RemoteError::Manifest { what: format!("{repository} {digest}"), source })?;
                Ok(Manifest { descriptor: Descriptor::new(manifest.media_type, *digest, bytes.len() as u64), bytes })
            }
        }
    }

    /// A blob from a byte on.
    pub(super) async fn blob_from(&self, repository: &Repository, digest: &Digest, begin: u64) -> Result<Body, RemoteError> {
        match self {
            Self::Registry(remote) => remote.blob_from(repository, digest, begin).await.map(Body::Registry),
            Self::Members(members) => {
                let Given { descriptor, pieces } = ask(members, repository, Thing::Blob(*digest, begin)).await?;
                if descriptor.size > remote::MAX_BLOB_BYTES {
                    return Err(RemoteError::NoMember(format!("a blob has {} bytes, over the limit", descriptor.size)));
                }
                Ok(Body::Members { size: descriptor.size, pieces })
            }
        }
    }
}

async fn ask(members: &Arc<dyn Members>, repository: &Repository, thing: Thing) -> Result<Given, RemoteError> {
    let wanted = Wanted { repository: repository.clone(), thing };
    members.ask(&wanted).await.map_err(|refusal| match refusal {
        Refusal::Nothing => {
            let what = format!("{repository} {:?}", wanted.thing);
            RemoteError::NotFound { registry: format!("the upstream of {MEMBERS}"), what }
        }
        Refusal::CannotAsk => RemoteError::NoMember("none is in reach whose upstream is".to_owned()),
    })
}

impl Body {
    /// Bytes of the whole blob, as is said.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Registry(body) => body.size(),
            Self::Members { size, .. } => *size,
        }
    }

    /// The next bytes; none at the end, which may come too early.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, RemoteError> {
        match self {
            Self::Registry(body) => body.piece().await,
            Self::Members { pieces, .. } => pieces.next().await.transpose().map_err(RemoteError::NoMember),
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(remote) => f.write_str(remote.registry()),
            Self::Members(_) => f.write_str(MEMBERS),
        }
    }
}
