//! The catalog and the pins say the same: what a crash left between the two is set right when the registry is opened. A pin
//! without its manifest ends; a manifest without its pin gets it anew. Must never end a pin whose manifest is here.

use std::collections::BTreeSet;

use super::manifests::pin;
use super::{Registry, RegistryError};
use crate::content::Pin;

impl Registry {
    pub(super) fn settle_pins(&self) -> Result<(), RegistryError> {
        let _changing = self.changing();
        let manifests = self.0.catalog.manifests()?;
        let mut pinned = BTreeSet::new();
        for reason in self.0.content.pins()? {
            if let Pin::Package { repository, digest } = reason {
                pinned.insert((repository, digest));
            }
        }
        for (repository, digest, row) in manifests {
            if pinned.remove(&(repository.to_string(), digest.to_string())) {
                continue;
            }
            match self.closure_of(&repository, &row) {
                Ok(hashes) => {
                    self.0.content.pin(&pin(&repository, &digest), &hashes.into_iter().collect::<Vec<_>>())?;
                }
                // It stays listed, and is asked for elsewhere.
                Err(error) => tracing::warn!(%repository, %digest, %error, "a manifest of the registry cannot be read"),
            }
        }
        for (repository, digest) in pinned {
            self.0.content.unpin(&Pin::Package { repository, digest })?;
        }
        Ok(())
    }
}
