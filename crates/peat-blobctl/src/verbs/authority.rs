//! The authority at work: which key can declare what, and what it signs. The key never leaves this process.

use std::path::{Path, PathBuf};

use peat_blobapi::blob::GetNodeResponse;
use peat_blobcore::Error;
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::identity::AuthorityKey;
use peat_blobcore::model::FormationId;
use peat_blobcore::parcel::{Header, ParcelWriter};

use super::declare::Subject;
use super::formation::FormationDirectory;
use crate::failure::{Failure, Kind};
use crate::show;

/// What is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declaration {
    /// The node is expelled.
    Revoked,
    /// The node is gone for good.
    Retired,
}

impl Declaration {
    /// The word that confirms it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Revoked => "revoke",
            Self::Retired => "retire",
        }
    }

    pub(super) const fn participle(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Retired => "retired",
        }
    }

    pub(super) const fn consequence(self) -> &'static str {
        match self {
            Self::Revoked => "every member that hears of it cuts it off and forgets what it has signed",
            Self::Retired => "no sender waits for it any more",
        }
    }
}

/// The authority's key, and the formation that it is for.
pub(super) struct Authority {
    key: AuthorityKey,
    formation: FormationId,
    directory: PathBuf,
}

impl Authority {
    pub(super) fn read(directory: &Path) -> Result<Self, Failure> {
        let files = FormationDirectory::new(directory);
        let (key, formation) = (files.authority()?, files.key()?.id());
        // Nodes know the authority by what is in that file. Where it is missing, the daemon says who it is.
        if files.authority_id().is_ok_and(|authority| authority != key.id()) {
            let message = format!("authority.key in {} is not the key of authority.pub beside it", directory.display());
            return Err(Failure::new(Kind::REFUSED, message).hint("restore the directory from where it was copied from"));
        }
        Ok(Self { key, formation, directory: directory.to_owned() })
    }

    /// A parcel with what is declared, and nothing else.
    pub(super) fn sign(&self, what: Declaration, node: &Subject, reason: &str) -> Result<Vec<u8>, Failure> {
        let now = SystemClock.now();
        let signed = match what {
            Declaration::Revoked => self.key.revoke(&node.id, node.name(), reason, now),
            Declaration::Retired => self.key.retire(&node.id, reason, now),
        };
        let signed = signed.map_err(|error| Failure::usage(error.to_string()).hint("give a shorter --reason"))?;
        let header = Header { formation: self.formation, exporter: self.key.id(), made_at: now };
        let mut parcel = Vec::new();
        let mut writer = ParcelWriter::begin(&mut parcel, &header).map_err(Error::from)?;
        writer.envelope(&signed).map_err(Error::from)?;
        writer.finish().map_err(Error::from)?;
        Ok(parcel)
    }
}

/// Whether this key, or none, can declare this in the daemon's formation.
pub(super) fn permitted(what: Declaration, authority: Option<&Authority>, me: &GetNodeResponse) -> Result<(), Failure> {
    let (message, hint) = match (authority, me.authority.as_str()) {
        (None, "") if what == Declaration::Retired => return Ok(()),
        (Some(authority), theirs) if authority.key.id().to_string() == theirs => return Ok(()),
        (_, "") if what == Declaration::Revoked => (
            "the daemon's formation has no authority, so nobody can be expelled: each member can compute the others' keys"
                .to_owned(),
            "give all other nodes a new formation key, which gives them new endpoint ids; or enrol them",
        ),
        (Some(_), "") => (
            "the daemon's formation has no authority: any member retires".to_owned(),
            "leave --formation away, and the daemon's node does it",
        ),
        (None, _) => (
            format!("only the formation's authority can {} a node", what.word()),
            "name the directory with its key: --formation DIRECTORY",
        ),
        (Some(authority), theirs) => (
            format!(
                "the key in {} is {}, and the authority of the daemon's formation is {}",
                authority.directory.display(),
                authority.key.id().short(),
                show::short(theirs),
            ),
            "name the directory that `peat-blobctl keygen` made for this formation, or another daemon",
        ),
    };
    Err(Failure::new(Kind::REFUSED, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        let formation = peat_blobcore::identity::FormationKey::generate().id();
        Authority { key: AuthorityKey::generate(), formation, directory: "formation".into() }
    }

    #[test]
    fn who_may_declare_what_depends_on_the_formations_authority() {
        let (ours, other) = (authority(), authority());
        let enrolled = GetNodeResponse { authority: ours.key.id().to_string(), ..Default::default() };
        let derived = GetNodeResponse::default();
        let hint = |what, key, me: &GetNodeResponse| permitted(what, key, me).map_err(|failure| failure.hint.unwrap());
        for what in [Declaration::Revoked, Declaration::Retired] {
            assert_eq!(hint(what, Some(&ours), &enrolled), Ok(()));
            assert!(hint(what, Some(&other), &enrolled).unwrap_err().contains("keygen"));
            assert!(hint(what, None, &enrolled).unwrap_err().contains("--formation"));
        }
        assert_eq!(hint(Declaration::Retired, None, &derived), Ok(()));
        assert!(hint(Declaration::Retired, Some(&ours), &derived).unwrap_err().contains("leave --formation away"));
        assert!(hint(Declaration::Revoked, Some(&ours), &derived).unwrap_err().contains("new formation key"));
        assert!(hint(Declaration::Revoked, None, &derived).unwrap_err().contains("new formation key"));
    }
}
