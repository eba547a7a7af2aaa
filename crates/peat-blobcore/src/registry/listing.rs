//! What there is, in pages: what is here and what others have, in one order, each once, and nothing that was deleted here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Registry, RegistryError};
use crate::oci::{Descriptor, Digest, Repository, Tag};

/// Some of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// Whether others follow.
    pub more: bool,
}

impl<T> Page<T> {
    /// The first `most` of what has one more if others follow.
    fn cut(mut items: Vec<T>, most: usize) -> Self {
        let more = items.len() > most;
        items.truncate(most);
        Self { items, more }
    }
}

impl Registry {
    /// Repositories whose names come after `after` (none: from the first on), at most `most`.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn repositories(&self, after: Option<&str>, most: usize) -> Result<Page<Repository>, RegistryError> {
        self.repositories_that(after, most, |_| true)
    }

    /// Those of them that somebody wants to see.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn repositories_that(
        &self,
        after: Option<&str>,
        most: usize,
        wanted: impl Fn(&Repository) -> bool,
    ) -> Result<Page<Repository>, RegistryError> {
        let after = after.unwrap_or_default();
        let others = self.elsewhere().map_or_else(Vec::new, |elsewhere| elsewhere.repositories());
        let mut names: BTreeSet<_> = others.into_iter().filter(|name| name.as_str() > after && wanted(name)).collect();
        names.extend(self.0.catalog.repositories(after, most + 1, wanted)?);
        Ok(Page::cut(names.into_iter().take(most + 1).collect(), most))
    }

    /// A repository whose manifest has this digest and is here: `like` before all others.
    ///
    /// # Errors
    /// [`RegistryError::NoManifest`] when none has, or when the catalog cannot be read.
    pub fn repository_with(&self, like: &Repository, digest: &Digest) -> Result<Repository, RegistryError> {
        if self.describe(like, digest)?.is_some() {
            return Ok(like.clone());
        }
        for (repository, found, _) in self.0.catalog.manifests()? {
            if found == *digest && self.describe(&repository, digest)?.is_some() {
                return Ok(repository);
            }
        }
        Err(RegistryError::NoManifest { repository: like.clone(), reference: (*digest).into() })
    }

    /// Tags of a repository that come after `after` (none: from the first on), at most `most`.
    ///
    /// # Errors
    /// [`RegistryError::NoRepository`], or when the catalog cannot be read.
    pub fn tags(&self, repository: &Repository, after: Option<&str>, most: usize) -> Result<Page<Tag>, RegistryError> {
        let after = after.unwrap_or_default();
        let mut tags: BTreeSet<_> = self.0.catalog.tags(repository, after, most + 1)?.into_iter().collect();
        let others = self.elsewhere().map_or_else(Vec::new, |elsewhere| elsewhere.tags(repository));
        if tags.is_empty() && others.is_empty() && !self.0.catalog.has_repository(repository)? {
            return Err(RegistryError::NoRepository(repository.clone()));
        }
        for tag in others.into_iter().filter(|tag| tag.as_str() > after) {
            if !tags.contains(&tag) && !self.is_blocked(repository, &tag)? {
                tags.insert(tag);
            }
        }
        Ok(Page::cut(tags.into_iter().take(most + 1).collect(), most))
    }

    /// Manifests about `subject` whose digests come after `after`, at most `most`; with `artifact_type` only those of that type.
    /// Where there are none, that is no error.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
        most: usize,
    ) -> Result<Page<Descriptor>, RegistryError> {
        let wanted = |found: &Descriptor| artifact_type.is_none_or(|wanted| found.artifact_type.as_deref() == Some(wanted));
        let mut found = BTreeMap::new();
        let mut last = after.map(ToString::to_string).unwrap_or_default();
        // Page by page until enough of the type were found.
        while found.len() <= most {
            let rows = self.0.catalog.referrers(repository, subject, &last, most + 1)?;
            let ended = rows.len() <= most;
            for (digest, row) in rows {
                last = digest.to_string();
                let described = Descriptor {
                    media_type: row.media_type,
                    digest,
                    size: row.size,
                    platform: None,
                    artifact_type: row.artifact_type,
                    annotations: row.annotations,
                    urls: Vec::new(),
                };
                if wanted(&described) {
                    found.insert(last.clone(), described);
                }
            }
            if ended {
                break;
            }
        }
        let others = self.elsewhere().map_or_else(Vec::new, |elsewhere| elsewhere.referrers(repository, subject));
        for other in others.into_iter().filter(wanted) {
            let name = other.digest.to_string();
            let is_new = after.is_none_or(|after| name > after.to_string()) && !found.contains_key(&name);
            if is_new && !self.is_blocked(repository, &name)? {
                found.insert(name, other);
            }
        }
        Ok(Page::cut(found.into_values().take(most + 1).collect(), most))
    }
}
