//! The directory that `keygen` makes for a formation: its key, the authority's key, and the authority's id. Who only makes
//! nodes' keys needs no authority's key in it; who signs does.

use std::path::{Path, PathBuf};

use peat_blobcore::identity::{AuthorityKey, FormationKey, IdentityError, files};
use peat_blobcore::model::EndpointId;

use crate::failure::{Failure, Kind};
use crate::secret;

const FORMATION_KEY: &str = "formation.key";
const AUTHORITY_KEY: &str = "authority.key";
const AUTHORITY: &str = "authority.pub";

/// A formation's directory.
pub(crate) struct FormationDirectory(PathBuf);

impl FormationDirectory {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes a formation.
    pub(crate) fn create(&self) -> Result<(FormationKey, AuthorityKey), Failure> {
        for name in [FORMATION_KEY, AUTHORITY_KEY, AUTHORITY] {
            let path = self.0.join(name);
            if path.try_exists().map_err(Failure::io(path.display()))? {
                return Err(secret::exists(&path).hint("a formation keeps its keys; take another directory for another one"));
            }
        }
        secret::directory(&self.0)?;
        let (formation, authority) = (FormationKey::generate(), AuthorityKey::generate());
        secret::write_new(&self.0.join(AUTHORITY), &format!("{}\n", authority.id()))?;
        secret::write_new(&self.0.join(AUTHORITY_KEY), &format!("{}\n", authority.to_base64()))?;
        secret::write_new(&self.0.join(FORMATION_KEY), &format!("{}\n", formation.to_base64()))?;
        Ok((formation, authority))
    }

    /// The formation's key.
    pub(crate) fn key(&self) -> Result<FormationKey, Failure> {
        let path = self.0.join(FORMATION_KEY);
        let text = self.read(&path)?;
        FormationKey::from_base64(text.trim()).map_err(|source| IdentityError::MalformedKey { path, source }.into())
    }

    /// The authority's key.
    pub(crate) fn authority(&self) -> Result<AuthorityKey, Failure> {
        files::load_authority(&self.0.join(AUTHORITY_KEY)).map_err(|error| match error {
            IdentityError::Missing(path) => Failure::new(Kind::NOT_FOUND, format!("{} is missing", path.display()))
                .hint("run this where the authority's key is kept; `peat-blobctl keygen DIRECTORY` makes a formation"),
            error => error.into(),
        })
    }

    /// The authority's id.
    pub(crate) fn authority_id(&self) -> Result<EndpointId, Failure> {
        let path = self.0.join(AUTHORITY);
        let text = self.read(&path)?;
        text.trim().parse().map_err(|source| IdentityError::MalformedId { path, source }.into())
    }

    fn read(&self, path: &Path) -> Result<String, Failure> {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::io(format!("cannot read {}", path.display()))(error)
                .hint(format!("{FORMATION_KEY} and {AUTHORITY} come from the directory that `peat-blobctl keygen` made"))
        })
    }
}
