//! An upstream: the name that its repositories are beneath, and the places that have them, in the order in which they are asked.
//! One that failed rests a while, one that lied comes last; neither is ever left out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::source::Source;
use crate::oci::Repository;
use crate::registry::Members;
use crate::registry::remote::{Credentials, Remote, RemoteError, RemoteOptions};

/// How long one that could not be reached, or fell silent, is asked after the others.
const REST: Duration = Duration::from_secs(10);

/// Where an upstream, or a mirror of it, is.
#[derive(Debug, Clone)]
pub struct Location {
    /// `host` or `host:port`.
    pub host: String,
    /// Plain http instead of https.
    pub insecure: bool,
    /// Who asks, if it wants to know.
    pub credentials: Option<Credentials>,
}

/// A registry that this one stands before.
#[derive(Debug)]
pub struct Upstream {
    name: Option<String>,
    mirrors: Vec<Mirror>,
}

/// A place that has its content.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) source: Source,
    rests_until: Mutex<Option<Instant>>,
    lied: AtomicBool,
}

impl Upstream {
    /// A registry with its mirrors, to be asked in this order. Its repositories are beneath `name` here; without one it speaks for
    /// every repository, by the same name. One that says nothing for as long as `stall` is left for the next.
    ///
    /// # Errors
    /// `BadAddress` when one of the locations is none.
    pub fn new(name: Option<String>, locations: Vec<Location>, stall: Duration) -> Result<Self, RemoteError> {
        let mirror = |Location { host, insecure, credentials }: Location| {
            let options = RemoteOptions { insecure, credentials, patience: stall, passed_on: true, ..RemoteOptions::default() };
            let remote = Remote::new(&host, options)?;
            Ok::<_, RemoteError>(Mirror::new(Source::Registry(remote)))
        };
        let mirrors = locations.into_iter().map(mirror).collect::<Result<_, _>>()?;
        Ok(Self { name, mirrors })
    }

    /// The upstreams of other nodes, which know what they speak for.
    pub(super) fn of_members(members: Arc<dyn Members>) -> Self {
        Self { name: None, mirrors: vec![Mirror::new(Source::Members(members))] }
    }

    /// The name that its repositories are beneath.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it calls a repository, if it speaks for it.
    pub(super) fn beneath(&self, repository: &Repository) -> Option<Repository> {
        match &self.name {
            None => Some(repository.clone()),
            Some(name) => repository.as_str().strip_prefix(name.as_str())?.strip_prefix('/')?.parse().ok(),
        }
    }

    /// Its mirrors, those first that are well.
    pub(super) fn order(&self) -> Vec<&Mirror> {
        let mut order: Vec<_> = self.mirrors.iter().collect();
        order.sort_by_key(|mirror| (mirror.lied.load(Ordering::Relaxed), mirror.rests()));
        order
    }

    /// All of them are asked after others for a while.
    pub(super) fn rest(&self) {
        self.mirrors.iter().for_each(Mirror::rest);
    }

    /// Whether none of them could be reached lately.
    pub(super) fn rests(&self) -> bool {
        self.mirrors.iter().all(Mirror::rests)
    }
}

impl Mirror {
    fn new(source: Source) -> Self {
        Self { source, rests_until: Mutex::default(), lied: AtomicBool::default() }
    }

    /// It is asked after the others for a while.
    pub(super) fn rest(&self) {
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    fn rests(&self) -> bool {
        self.rests_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// What it gave was part of something that was not what its digest says; or was right.
    pub(super) fn judge(&self, lied: bool) {
        self.lied.store(lied, Ordering::Relaxed);
    }
}
