//! Which distributions each send call of the attachment API has made, so that the same call is answered the same again. The
//! documents are what lasts: this is read from them at first need.

use std::collections::BTreeMap;

use peat_blobcore::model::{DistributionId, FileEntry, Files};
use peat_blobcore::{Error, Node};
use tokio::sync::{Mutex, MutexGuard};

/// What names a file within a bundle: its root, path, size and SHA-256.
type Key = (String, Vec<u8>, u64, [u8; 32]);
/// Distributions by bundle and file.
type Table = BTreeMap<String, BTreeMap<Key, DistributionId>>;

/// The bundles of this node.
#[derive(Default)]
pub(super) struct Bundles(Mutex<Option<Table>>);

/// The bundles, while nobody else changes them.
pub(super) struct Open<'a>(MutexGuard<'a, Option<Table>>);

pub(super) fn key(file: &FileEntry) -> Key {
    (file.root.clone(), file.path.clone(), file.size, *file.sha256.as_bytes())
}

impl Bundles {
    /// Waits until nobody else changes them, and reads them from the documents if that was not done yet.
    pub(super) async fn open(&self, node: &Node) -> Result<Open<'_>, Error> {
        let mut table = self.0.lock().await;
        if table.is_none() {
            let mut read = Table::new();
            for id in node.distributions() {
                let distribution = node.distribution(id).await?;
                let manifest = &distribution.manifest;
                if manifest.sender == node.id()
                    && let Files::Inline(files) = &manifest.files
                    && let [file] = files.as_slice()
                {
                    read.entry(manifest.bundle.clone()).or_default().insert(key(file), id);
                }
            }
            *table = Some(read);
        }
        Ok(Open(table))
    }
}

impl Open<'_> {
    /// The distributions of a bundle.
    pub(super) fn of(&self, bundle: &str) -> Option<&BTreeMap<Key, DistributionId>> {
        self.0.as_ref().and_then(|table| table.get(bundle))
    }

    /// Notes what was sent.
    pub(super) fn add(&mut self, bundle: &str, key: Key, id: DistributionId) {
        self.0.get_or_insert_default().entry(bundle.to_owned()).or_default().insert(key, id);
    }
}
