//! How the registry asks for what lies in files.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::watch;

use super::Sideload;
use super::known::Entry;
use crate::oci::{Descriptor, Digest, Repository, Tag};
use crate::registry::{Answer, Arrival, Arriving, Change, Elsewhere, Found, Named, RegistryError, blocking};

impl Sideload {
    /// Makes sure that the files which would be this image are known as they are now.
    async fn look_for(&self, repository: &Repository, tag: &Tag) -> Result<(), RegistryError> {
        let paths = self.0.patterns.iter().enumerate();
        let paths: Vec<_> = paths.filter_map(|(number, pattern)| Some((number, pattern.path(repository, tag)?))).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let _one = self.0.asking.lock().await;
        let sideload = self.clone();
        blocking(move || {
            for (number, path) in paths {
                let known = sideload.known().entry(&sideload.0.patterns[number].root().join(&path));
                // Its name is that of somebody's question: what is not there is nothing to be remembered.
                if sideload.look(number, &path)?.is_none()
                    && let Some(known) = known
                {
                    sideload.forget(&known)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The first image of a repository that satisfies this and is as it was.
    fn current(&self, repository: &Repository, wanted: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let mut entries: Vec<_> = self.known().of(repository).filter(|entry| wanted(entry)).cloned().collect();
        entries.sort_by_key(|entry| entry.pattern);
        entries.into_iter().find(|entry| {
            let current = self.is_current(entry);
            if !current && let Err(error) = self.forget(entry) {
                tracing::error!(%error, "cannot write the index of files");
            }
            current
        })
    }
}

impl Elsewhere for Sideload {
    fn resolve<'a>(&'a self, repository: &'a Repository, tag: &'a Tag) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            if let Err(error) = self.look_for(repository, tag).await {
                tracing::error!(%error, "cannot look for a file");
            }
            let (sideload, repository, tag) = (self.clone(), repository.clone(), tag.clone());
            let entry = blocking(move || Ok(sideload.current(&repository, |entry| entry.tag == tag))).await.ok()??;
            let root = &entry.image.as_ref().ok()?.roots[0];
            let (digest, media_type, size) = (root.digest, root.media_type.clone(), root.size);
            Some(Named { digest, media_type, size, set_at: entry.since() })
        })
    }

    fn find<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            let (sideload, repository, name) = (self.clone(), repository.clone(), *digest);
            let has = move |entry: &Entry| entry.image.as_ref().is_ok_and(|image| image.blobs.contains_key(&name));
            let entry = blocking(move || Ok(sideload.current(&repository, has))).await.ok()??;
            let blob = entry.image.as_ref().ok()?.blobs.get(digest)?;
            let (sender, progress) = watch::channel(Arrival::Coming);
            let media_type = blob.media_type.clone();
            let arriving = Arriving { hash: blob.hash, size: blob.size, media_type, claimed_by: self.0.me, progress };
            let (sideload, entry, digest) = (self.clone(), Arc::clone(&entry), *digest);
            // It ends by itself with what it takes.
            tokio::spawn(async move {
                let arrival = match sideload.take(&entry, digest).await {
                    Ok(_) => Arrival::Whole,
                    Err(error) => {
                        tracing::warn!(path = %entry.path.display(), %digest, %error, "cannot take a blob from a file");
                        Arrival::Failed(error.to_string())
                    }
                };
                sender.send_replace(arrival);
            });
            Some(Found::Claimed(arriving))
        })
    }

    fn size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        let known = self.known();
        known.of(repository).find_map(|entry| entry.image.as_ref().ok()?.blobs.get(digest).map(|blob| blob.size))
    }

    fn hurry(&self, _arriving: &Arriving, _range: Range<u64>) {}

    fn disprove(&self, _repository: &Repository, _digest: &Digest, _arriving: &Arriving) {
        // What was taken was held against its digest: there is nobody to be disbelieved.
    }

    fn repositories(&self) -> Vec<Repository> {
        self.known().repositories().cloned().collect()
    }

    fn tags(&self, repository: &Repository) -> Vec<Tag> {
        self.known().of(repository).map(|entry| entry.tag.clone()).collect()
    }

    fn referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor> {
        let known = self.known();
        let roots = known.of(repository).filter_map(|entry| entry.image.as_ref().ok()).flat_map(|image| &image.roots);
        let about = roots.filter(|root| root.subject.as_ref() == Some(subject));
        let described = about.map(|root| Descriptor {
            artifact_type: root.artifact_type.clone(),
            ..Descriptor::new(root.media_type.clone(), root.digest, root.size)
        });
        described.collect()
    }

    fn changed(&self, _change: &Change) {}
}
