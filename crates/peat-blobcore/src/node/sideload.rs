//! The files that are served as images: looked through again and again, and told to others as what was pushed here is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::package::Mesh;
use super::{Node, blocking};
use crate::Error;
use crate::registry::sideload::Sideload;

impl Node {
    /// The images that are served from files, where there are patterns for them.
    #[must_use]
    pub fn sideload(&self) -> Option<&Sideload> {
        self.sideload.as_ref().map(|watch| &watch.sideload)
    }
}

/// The task that looks, which ends with this.
pub(super) struct Watch {
    sideload: Sideload,
    task: JoinHandle<()>,
}

impl Watch {
    /// Looks now, and then this often.
    pub(super) fn start(sideload: Sideload, mesh: Arc<Mesh>, interval: Duration) -> Self {
        let task = tokio::spawn(watch(sideload.clone(), mesh, interval));
        Self { sideload, task }
    }

    /// Looks no more, and closes the index.
    pub(super) async fn stop(self) {
        self.task.abort();
        let sideload = self.sideload.clone();
        if blocking(move || sideload.close()).await.is_err() {
            tracing::error!("the index of files was not closed");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(sideload: Sideload, mesh: Arc<Mesh>, interval: Duration) {
    let mut due = tokio::time::interval(interval.max(Duration::from_millis(10)));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let scans = tokio::select! {
            _ = due.tick() => true,
            // A client has found it.
            () = sideload.changed() => false,
        };
        let (sideload, mesh) = (sideload.clone(), Arc::clone(&mesh));
        let done = blocking(move || {
            if scans {
                sideload.scan()?;
            }
            tell(&sideload, &mesh)
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(Error::Stopped)) | Err(_) => return,
            Ok(Err(error)) => tracing::error!(%error, "cannot serve images from files"),
        }
    }
}

/// Tells others what is there and what is not there any more: nothing is written where they know.
fn tell(sideload: &Sideload, mesh: &Mesh) -> Result<(), Error> {
    let told = sideload.told()?;
    let (mut there, mut digests) = (BTreeSet::new(), BTreeSet::new());
    for image in sideload.images() {
        mesh.offer(sideload, &image, &told)?;
        for digest in std::iter::once(image.digest).chain(image.about) {
            there.insert((image.repository.clone(), digest, image.tag.clone()));
            digests.insert((image.repository.clone(), digest));
        }
    }
    for (repository, digest, tag) in told.difference(&there) {
        // Another file may be the same under another tag.
        match digests.contains(&(repository.clone(), *digest)) {
            true => mesh.withdraw_tag(repository, digest, tag)?,
            false => mesh.withdraw(repository, digest)?,
        }
        sideload.forget_told(repository, digest, tag)?;
    }
    Ok(())
}
