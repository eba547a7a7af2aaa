//! A node's own identity on disk: `identity/` in the data directory, one value a file, one line each.
//!
//! | file | what | secret |
//! |---|---|---|
//! | `node.key` | the node's key, base64 | yes |
//! | `formation.key` | the formation's key, base64 | yes |
//! | `formation.previous` | the key before it, while it is changed | yes |
//! | `authority.pub` | the authority's endpoint id, hex | no |
//! | `certificate` | the certificate, CBOR in base64 | no |
//! | `incarnation` | this life of the data directory, hex | no |
//!
//! Each file is replaced as a whole or not at all, and readable by its owner alone. Never overwrites a node's key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ErrorKind;
use crate::clock::{Clock as _, SystemClock};
use crate::model::{Certificate, CertificateBody, Credential, EndpointId, Incarnation, Labels, ParseIdError, Role};

use super::keys::random;
use super::{AuthorityKey, Formation, FormationKey, Identity, KeyError, NodeKey, Rejection};

const DIRECTORY: &str = "identity";
const NODE_KEY: &str = "node.key";
const FORMATION_KEY: &str = "formation.key";
const PREVIOUS_KEY: &str = "formation.previous";
const AUTHORITY: &str = "authority.pub";
const CERTIFICATE: &str = "certificate";
const INCARNATION: &str = "incarnation";

/// How long a certificate of [`create_member`] is good for.
const DEFAULT_MEMBERSHIP: Duration = Duration::from_secs(365 * 24 * 3600);

/// Longest file that is read, in bytes: a credential of the greatest length in base64 fits.
const MAX_FILE_BYTES: u64 = 8 * 1024;

/// Why an identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file that must be there is not.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// The content is no key or certificate.
    #[error("{}: {source}", path.display())]
    MalformedKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The content is no id.
    #[error("{}: {source}", path.display())]
    MalformedId {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ParseIdError,
    },
    /// The node has a key, but no certificate yet.
    #[error("the node {0} has no certificate yet")]
    NotEnrolled(EndpointId),
    /// The data directory has a key already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The certificate or the node id does not make this key a member of this formation.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl IdentityError {
    /// What it means for the one who called.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Missing(_) => ErrorKind::NotFound,
            Self::MalformedKey { .. } | Self::MalformedId { .. } => ErrorKind::Integrity,
            Self::NotEnrolled(_) | Self::Exists(_) => ErrorKind::Refused,
            Self::Rejected(rejection) => rejection.kind(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::Missing(path) => Some(match path.file_name().and_then(|name| name.to_str()) {
                Some(NODE_KEY) => "make an identity first, or give a formation key and a node id".to_owned(),
                _ => "restore the file; all nodes of the formation have the same formation key and authority".to_owned(),
            }),
            Self::MalformedKey { path, .. } | Self::MalformedId { path, .. } => Some(match path.file_name() {
                Some(name) if name == INCARNATION => "remove the file; a new one is made".to_owned(),
                _ => "restore the file from where it was copied from".to_owned(),
            }),
            Self::NotEnrolled(id) => Some(format!("have the authority sign a certificate for {id}, then enrol the node with it")),
            Self::Exists(_) => Some("a node keeps its key; take another data directory for another node".to_owned()),
            Self::Rejected(rejection) => rejection.hint(),
        }
    }
}

/// A secret that other users of the machine can read or write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is open to other users (mode {mode:o}); run `chmod go= {}`", path.display(), path.display())]
pub struct Warning {
    /// The file or directory.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// The node's identity: the enrolled one when the data directory has a certificate, else the deterministic one of `fallback`
/// (a formation and a node id).
///
/// # Errors
/// [`IdentityError`] when there is neither, or a file cannot be read.
pub fn open(data: &Path, fallback: Option<(Formation, &str)>) -> Result<(Identity, Vec<Warning>), IdentityError> {
    match fallback {
        Some((formation, node_id)) if !exists(&file(data, CERTIFICATE))? => {
            Ok((Identity::derived(formation, node_id, incarnation(data)?)?, warnings(data)?))
        }
        _ => load(data),
    }
}

/// The enrolled identity in the data directory.
///
/// # Errors
/// [`IdentityError`] when a file is missing or malformed, or the certificate is not this node's.
pub fn load(data: &Path) -> Result<(Identity, Vec<Warning>), IdentityError> {
    let key = read_key(&file(data, NODE_KEY), NodeKey::from_base64)?;
    if !exists(&file(data, CERTIFICATE))? {
        return Err(IdentityError::NotEnrolled(key.endpoint_id()));
    }
    let certificate = read_key(&file(data, CERTIFICATE), Certificate::from_base64)?;
    let identity = Identity::enrolled(key, certificate, formation(data)?, incarnation(data)?)?;
    Ok((identity, warnings(data)?))
}

/// Makes a node's key in the data directory, for a formation with an authority. The authority then signs a certificate for
/// the endpoint id, and [`enroll`] completes the identity.
///
/// # Errors
/// [`IdentityError`] when there is a key already, or a file cannot be written.
pub fn create_enrolled(data: &Path, formation: &FormationKey, authority: EndpointId) -> Result<EndpointId, IdentityError> {
    let path = file(data, NODE_KEY);
    if exists(&path)? {
        return Err(IdentityError::Exists(path));
    }
    let key = NodeKey::generate();
    write(&file(data, FORMATION_KEY), &formation.to_base64())?;
    write(&file(data, AUTHORITY), &authority.to_string())?;
    incarnation(data)?;
    // Last, so that what a crash leaves behind is an identity that can be made again.
    write(&path, &key.to_base64())?;
    Ok(key.endpoint_id())
}

/// Puts a certificate into the data directory, or replaces it by a newer one.
///
/// # Errors
/// [`IdentityError`] when it is not for this node and formation by its authority, or cannot be written.
pub fn enroll(data: &Path, certificate: Certificate) -> Result<Identity, IdentityError> {
    let key = read_key(&file(data, NODE_KEY), NodeKey::from_base64)?;
    let line = certificate.to_base64();
    let identity = Identity::enrolled(key, certificate, formation(data)?, incarnation(data)?)?;
    write(&file(data, CERTIFICATE), &line)?;
    Ok(identity)
}

/// Puts a whole identity into a data directory that has no node's key, as from a backup. The node begins a new life there.
///
/// # Errors
/// [`IdentityError`] when there is a key already, the parts do not belong together, or a file cannot be written. Nothing is
/// written before they were found to hold together.
pub fn restore(data: &Path, key: NodeKey, formation: Formation, certificate: Certificate) -> Result<Identity, IdentityError> {
    let path = file(data, NODE_KEY);
    if exists(&path)? {
        return Err(IdentityError::Exists(path));
    }
    let line = certificate.to_base64();
    let identity = Identity::enrolled(key, certificate, formation, Incarnation::from_bytes(random()))?;
    let formation = identity.formation();
    let authority = formation.authority.expect("a certificate holds for none without an authority");
    write(&file(data, FORMATION_KEY), &formation.key.to_base64())?;
    match &formation.previous {
        Some(previous) => write(&file(data, PREVIOUS_KEY), &previous.to_base64())?,
        None => remove(&file(data, PREVIOUS_KEY))?,
    }
    write(&file(data, AUTHORITY), &authority.to_string())?;
    write(&file(data, CERTIFICATE), &line)?;
    write(&file(data, INCARNATION), &identity.incarnation().to_string())?;
    // Last, so that what a crash leaves behind is an identity that can be restored again.
    write(&path, &identity.key().to_base64())?;
    Ok(identity)
}

/// Makes a node's key in the data directory and enrolls it at once, good for a year: for who has the authority's key at hand.
///
/// # Errors
/// [`IdentityError`] when there is a key already, a file cannot be written, or the name or labels are over their limits.
pub fn create_member(
    data: &Path,
    formation: &FormationKey,
    authority: &AuthorityKey,
    name: &str,
    labels: Labels,
) -> Result<Identity, IdentityError> {
    let endpoint = create_enrolled(data, formation, authority.id())?;
    let expiry = SystemClock.now().plus(DEFAULT_MEMBERSHIP);
    let body = CertificateBody { formation: formation.id(), endpoint, name: name.to_owned(), labels, role: Role::Member, expiry };
    enroll(data, authority.certify(body)?)
}

/// Takes a new formation key into use. The present one stays accepted until [`end_key_change`].
///
/// # Errors
/// [`IdentityError`] when a file cannot be read or written.
pub fn change_formation_key(data: &Path, new: &FormationKey) -> Result<(), IdentityError> {
    let present = read_key(&file(data, FORMATION_KEY), FormationKey::from_base64)?;
    if present.id() == new.id() {
        return Ok(());
    }
    // In this order, since a crash in between leaves a node that accepts one key twice, not one that forgot it.
    write(&file(data, PREVIOUS_KEY), &present.to_base64())?;
    write(&file(data, FORMATION_KEY), &new.to_base64())
}

/// Stops accepting the previous formation key.
///
/// # Errors
/// [`IdentityError`] when the node's certificate is still for the previous key, or the file cannot be removed.
pub fn end_key_change(data: &Path) -> Result<(), IdentityError> {
    let (identity, _) = load(data)?;
    let ended = Formation { previous: None, ..identity.formation().clone() };
    if let Credential::Certificate(certificate) = identity.credential() {
        ended.verify_certificate(&identity.id(), certificate)?;
    }
    remove(&file(data, PREVIOUS_KEY))
}

/// The incarnation of the data directory, made now if it has none.
///
/// # Errors
/// [`IdentityError`] when the file is malformed, or cannot be read or written.
pub fn incarnation(data: &Path) -> Result<Incarnation, IdentityError> {
    let path = file(data, INCARNATION);
    if exists(&path)? { read_id(&path) } else { renew_incarnation(data) }
}

/// Begins a new life of the data directory: for a node whose identity is there, but whose documents are not.
///
/// # Errors
/// [`IdentityError`] when the file cannot be written.
pub fn renew_incarnation(data: &Path) -> Result<Incarnation, IdentityError> {
    let incarnation = Incarnation::from_bytes(random());
    write(&file(data, INCARNATION), &incarnation.to_string())?;
    Ok(incarnation)
}

/// Writes an authority's key to a file of its own, which must not exist.
///
/// # Errors
/// [`IdentityError`] when it exists, or cannot be written.
pub fn save_authority(path: &Path, key: &AuthorityKey) -> Result<(), IdentityError> {
    if exists(path)? { Err(IdentityError::Exists(path.to_owned())) } else { write(path, &key.to_base64()) }
}

/// Reads an authority's key.
///
/// # Errors
/// [`IdentityError`] when the file is missing or malformed.
pub fn load_authority(path: &Path) -> Result<AuthorityKey, IdentityError> {
    read_key(path, AuthorityKey::from_base64)
}

fn file(data: &Path, name: &str) -> PathBuf {
    data.join(DIRECTORY).join(name)
}

fn formation(data: &Path) -> Result<Formation, IdentityError> {
    let previous = file(data, PREVIOUS_KEY);
    Ok(Formation {
        key: read_key(&file(data, FORMATION_KEY), FormationKey::from_base64)?,
        previous: exists(&previous)?.then(|| read_key(&previous, FormationKey::from_base64)).transpose()?,
        authority: Some(read_id(&file(data, AUTHORITY))?),
    })
}

fn warnings(data: &Path) -> Result<Vec<Warning>, IdentityError> {
    let mut warnings = Vec::new();
    for path in [data.join(DIRECTORY), file(data, NODE_KEY), file(data, FORMATION_KEY), file(data, PREVIOUS_KEY)] {
        if exists(&path)? {
            let mode = fs::metadata(&path).map_err(io_error(&path))?.permissions().mode() & 0o7777;
            if mode & 0o077 != 0 {
                warnings.push(Warning { path, mode });
            }
        }
    }
    Ok(warnings)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io { path: path.to_owned(), source }
}

fn exists(path: &Path) -> Result<bool, IdentityError> {
    path.try_exists().map_err(io_error(path))
}

fn read_key<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, KeyError>) -> Result<T, IdentityError> {
    parse(&read(path)?).map_err(|source| IdentityError::MalformedKey { path: path.to_owned(), source })
}

fn read_id<T: std::str::FromStr<Err = ParseIdError>>(path: &Path) -> Result<T, IdentityError> {
    read(path)?.trim_ascii().parse().map_err(|source| IdentityError::MalformedId { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, IdentityError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(IdentityError::Missing(path.to_owned())),
        Err(error) => Err(io_error(path)(error)),
    }
}

/// Replaces a file by one line, durably: readers and crashes see the old file or the new one.
fn write(path: &Path, line: &str) -> Result<(), IdentityError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_directory(directory)?;
    let temporary = path.with_added_extension("new");
    let replace = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{line}")?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    replace().map_err(io_error(path))?;
    sync_directory(directory)
}

/// Removes a file, durably, if it is there.
fn remove(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => sync_directory(path.parent().expect("it lies in the identity's directory")),
    }
}

/// Makes a directory, and those above it that are missing, each durable in the one above it.
fn create_directory(directory: &Path) -> Result<(), IdentityError> {
    if exists(directory)? {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error(directory)(error)),
        _ => sync_directory(parent),
    }
}

fn sync_directory(directory: &Path) -> Result<(), IdentityError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error(directory))
}

#[cfg(test)]
mod tests;
