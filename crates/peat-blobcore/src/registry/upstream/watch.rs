//! What is new in an upstream's repositories, brought here before anybody asks. Must never write where nothing is new.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::source::Source;
use super::{Upstream, Upstreams, ask, blocking, fetch};
use crate::Watched;
use crate::oci::{Descriptor, Digest, NameError, Repository, Tag};
use crate::registry::remote::{Remote, RemoteError};
use crate::registry::{Change, RegistryError};

/// Most tags of a repository that are looked at. Of more, those that come first in their order are.
pub const MAX_WATCHED_TAGS: usize = 1000;

/// Images of a repository here, which an upstream speaks for: `registry.example/team/app:v1.*`. In the tags `*` stands for any
/// characters; without tags all are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedRepository {
    /// The repository, by its name here.
    pub repository: Repository,
    tags: String,
}

impl FromStr for WatchedRepository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (repository, tags) = text.split_once(':').unwrap_or((text, "*"));
        // With something in the place of each star it has to be a tag.
        match tags.is_empty() {
            true => "".parse::<Tag>()?,
            false => tags.replace('*', "x").parse::<Tag>()?,
        };
        Ok(Self { repository: repository.parse()?, tags: tags.to_owned() })
    }
}

impl fmt::Display for WatchedRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tags)
    }
}

impl WatchedRepository {
    /// Whether it means this tag.
    #[must_use]
    pub fn means(&self, tag: &Tag) -> bool {
        let mut parts = self.tags.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = tag.as_str().strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The first place that fits leaves most for those behind it.
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// How a watch is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchStatus {
    /// Images, and what is about them, that were brought since it began.
    pub brought: u64,
    /// Times that all repositories were looked at.
    pub looks: u64,
    /// What keeps something from being brought, if there is such.
    pub problem: Option<String>,
}

/// Watched repositories. What was brought stays.
pub type Watching = Watched<WatchStatus>;

impl Upstreams {
    /// Looks at repositories now and then this often, and brings what is new there: images with all that they name, of every
    /// platform, and what is about them (signatures). They are kept for good and told to other nodes, as what is pushed here is; what
    /// others have of them comes from others. What was deleted here stays away.
    #[must_use]
    pub fn watch(self: &Arc<Self>, watched: Vec<WatchedRepository>, interval: Duration) -> Watching {
        let (sender, status) = watch::channel(WatchStatus::default());
        let upstreams = Arc::clone(self);
        let task = tokio::spawn(async move {
            let mut due = tokio::time::interval(interval.max(Duration::from_millis(10)));
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                due.tick().await;
                let mut problem = None;
                for repository in &watched {
                    match upstreams.look_over(repository, &sender).await {
                        Ok(()) => {}
                        Err(RegistryError::Stopped) => return,
                        Err(error) => problem = problem.or(Some(format!("{repository}: {error}"))),
                    }
                }
                if let Some(problem) = problem.as_ref().filter(|_| sender.borrow().problem != problem) {
                    tracing::warn!(%problem, "not all that is new in upstreams is brought");
                }
                sender.send_modify(|status| {
                    status.looks += 1;
                    status.problem = problem;
                });
            }
        });
        Watched::new(status, task)
    }

    /// Looks at a repository once. What cannot be brought keeps nothing else from it; the first of it is returned.
    async fn look_over(&self, watched: &WatchedRepository, status: &watch::Sender<WatchStatus>) -> Result<(), RegistryError> {
        let repository = &watched.repository;
        let Some((upstream, there)) = self.of(repository) else {
            return Err(RegistryError::NoRepository(repository.clone()));
        };
        let (tags, more) = ask_all(upstream, |remote| {
            let there = there.clone();
            async move { remote.tags(&there, MAX_WATCHED_TAGS).await }
        })
        .await?;
        let mut outcome = Ok(());
        if more {
            tracing::warn!(%watched, "the repository has more than {MAX_WATCHED_TAGS} tags; those behind are not looked at");
        }
        for tag in tags.iter().filter(|tag| watched.means(tag)) {
            let brought = self.look_at(upstream, repository, &there, tag).await;
            match brought {
                Ok(0) => {}
                Ok(brought) => status.send_modify(|status| status.brought += brought),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Looks at a tag once, and says how many manifests were brought for it.
    async fn look_at(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        there: &Repository,
        tag: &Tag,
    ) -> Result<u64, RegistryError> {
        // It may have been removed since it was listed.
        let Some(said) = ask(upstream, there, tag).await.map_err(failed)? else { return Ok(0) };
        if self.is_deleted(repository, tag).await? {
            return Ok(0);
        }
        let mut brought = u64::from(self.bring_one(repository, &said).await?);
        let (keeper, within, name, digest) = (Arc::clone(&self.keeper), repository.clone(), tag.clone(), said.digest);
        blocking(move || keeper.follow_tag(&within, &name, &said)).await?;
        let about = ask_all(upstream, |remote| {
            let there = there.clone();
            async move { remote.referrers(&there, &digest).await }
        });
        for about in about.await? {
            if self.bring_one(repository, &about).await? {
                brought += 1;
                self.tell(repository, about.digest).await?;
            }
        }
        Ok(brought)
    }

    /// Brings a manifest with all that it names, unless it is here or was deleted here.
    async fn bring_one(&self, repository: &Repository, said: &Descriptor) -> Result<bool, RegistryError> {
        let (registry, within, digest) = (self.registry.clone(), repository.clone(), said.digest);
        let is_here = blocking(move || Ok(registry.describe(&within, &digest)?.is_some())).await?;
        if is_here || self.is_deleted(repository, &digest).await? {
            return Ok(false);
        }
        self.registry.bring_image(repository, &digest, None).await?;
        Ok(true)
    }

    async fn is_deleted(&self, repository: &Repository, what: &(impl fmt::Display + ?Sized)) -> Result<bool, RegistryError> {
        let (registry, within, what) = (self.registry.clone(), repository.clone(), what.to_string());
        blocking(move || registry.is_blocked(&within, &what)).await
    }

    async fn tell(&self, repository: &Repository, digest: Digest) -> Result<(), RegistryError> {
        let (registry, within) = (self.registry.clone(), repository.clone());
        blocking(move || {
            registry.tell(&Change::ManifestPut(within, digest));
            Ok(())
        })
        .await
    }
}

/// What the first mirror that can be asked says.
async fn ask_all<T, F>(upstream: &Upstream, question: impl Fn(Remote) -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RemoteError>>,
{
    let mut outcome = None;
    for mirror in upstream.order() {
        // Other nodes speak for no upstream of this one's.
        let Source::Registry(remote) = &mirror.source else { continue };
        match question(remote.clone()).await {
            Ok(said) => return Ok(said),
            Err(error) => outcome = Some(fetch::note(mirror, error)),
        }
    }
    Err(failed(outcome.expect("an upstream has a mirror")))
}

fn failed(error: RemoteError) -> RegistryError {
    RegistryError::Remote(Arc::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_meant_by_patterns() {
        for (pattern, tags) in [
            ("up/a", "v1 latest 1.0"),
            ("up/a:*", "v1 latest 1.0"),
            ("up/a:v1", "v1"),
            ("up/a:v*", "v1"),
            ("up/a:*.0", "1.0"),
            ("up/a:l*t*t", "latest"),
            ("up/a:*a*e*", "latest"),
            ("up/a:1.0*0", ""),
        ] {
            let watched: WatchedRepository = pattern.parse().unwrap();
            let meant: Vec<_> = ["v1", "latest", "1.0"].into_iter().filter(|tag| watched.means(&tag.parse().unwrap())).collect();
            assert_eq!(meant.join(" "), tags, "{pattern}");
        }
        for wrong in ["", "up/a:", "UP", "up/a:v 1", "up/a:-x", "up/a:v1:v2", ":v1"] {
            assert!(wrong.parse::<WatchedRepository>().is_err(), "{wrong}");
        }
    }
}
