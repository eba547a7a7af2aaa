//! Sending: files are taken into the store, named by a manifest, pinned, and only then told to anybody.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Node, blocking};
use crate::Error;
use crate::content::{Batch, Content, ContentError, Pin, PinRole, Spooled};
use crate::exchange::{Collected, Found, Ledger, Outbox, Walk};
use crate::model::{
    BlobHash, Carry, DistributionId, EndpointId, FileEntry, FileList, Files, MAX_INLINE_FILES, Manifest, Package, Priority,
    RelativePath, Scope, Timestamp,
};
use crate::replica::{Accepted, Replica};

/// How long files that were taken in are kept for a distribution that they may become part of.
pub const TAKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// Files whose blobs share a commit of the store: bounds memory, and what is read again after a failure.
const FILES_PER_COMMIT: usize = 1024;

/// What to send, to whom and how. [`SendRequest::new`] sends everything to all; the fields say otherwise.
#[derive(Debug, Clone)]
pub struct SendRequest {
    /// The directory that paths are beneath.
    pub root: PathBuf,
    /// What receivers are told that the root is called.
    pub root_name: String,
    /// Files and directories beneath the root; empty for everything.
    pub paths: Vec<PathBuf>,
    /// Whom it is for.
    pub scope: Scope,
    /// How urgent it is.
    pub priority: Priority,
    /// How long it is tried; at most [`Manifest::MAX_LIFETIME`].
    pub lifetime: Duration,
    /// Who may hold it for others.
    pub carry: Carry,
    /// Whether its files appear in an inbox all at once, or each as it comes.
    pub together: bool,
    /// A name for this call, at most 1 KiB; one is made up where there is none.
    pub bundle: Option<String>,
}

impl SendRequest {
    /// Sends everything beneath `root` to all members, as routine, for 30 days, all at once.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            root_name: "outbox".to_owned(),
            paths: Vec::new(),
            scope: Scope::All,
            priority: Priority::Routine,
            lifetime: Manifest::DEFAULT_LIFETIME,
            carry: Carry::Members,
            together: true,
            bundle: None,
        }
    }
}

/// What a distribution says beside its files.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The send call that it belongs to.
    pub bundle: String,
    /// Whom it is for.
    pub scope: Scope,
    /// How urgent it is.
    pub priority: Priority,
    /// How long it is tried; at most [`Manifest::MAX_LIFETIME`].
    pub lifetime: Duration,
    /// Who may hold it for others.
    pub carry: Carry,
    /// Whether its files appear in an inbox all at once, or each as it comes.
    pub together: bool,
}

/// A file that came as a stream.
#[derive(Debug)]
pub struct Streamed {
    /// Its path beneath the root.
    pub path: RelativePath,
    /// Its permission bits.
    pub mode: u32,
    /// When it was last modified, in milliseconds since the Unix epoch.
    pub mtime: i64,
    /// Its media type.
    pub content_type: Option<String>,
    /// Its bytes.
    pub bytes: Spooled,
}

/// Files that are in the store and wait to be sent. What has not become part of a distribution within
/// [`TAKEN_LIFETIME`] is free to go.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The files, in order of their paths.
    pub files: Vec<FileEntry>,
    /// What was found and not taken.
    pub skipped: Vec<Skipped>,
}

/// What was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The distribution that it became.
    pub distribution: DistributionId,
    /// The name of the call.
    pub bundle: String,
    /// The files, in order of their paths.
    pub files: Vec<FileEntry>,
    /// What was found and not sent.
    pub skipped: Vec<Skipped>,
}

/// Something that was found beneath the root and not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path, beneath the root or as it was named.
    pub path: Vec<u8>,
    /// Why, in words.
    pub reason: String,
}

impl Node {
    /// Takes files into the store and makes a distribution of them. It returns once they are durable here and the peers that
    /// are connected are being told; [`Node::wait`] waits for the receipts.
    ///
    /// What cannot be read is skipped and reported, and does not stop the others. Who stops waiting for the answer does not
    /// stop the call.
    ///
    /// # Errors
    /// [`Error::NothingToSend`] when not one file is left, [`Error::Manifest`] for what does not fit a manifest, and what the
    /// store and the replica report, a full disk among it.
    pub async fn send(&self, request: SendRequest) -> Result<Sent, Error> {
        let job = self.job();
        let SendRequest { root, root_name, paths, scope, priority, lifetime, carry, together, bundle } = request;
        let bundle = bundle.unwrap_or_else(|| self.next_bundle());
        let terms = Terms { bundle, scope, priority, lifetime, carry, together };
        self.write_with(move || {
            let _no_collection = job.content.keep_unpinned();
            let Taken { files, skipped } = job.take_in(&root, &root_name, &paths)?;
            if files.is_empty() {
                return Err(Error::nothing_to_send(&root, &skipped));
            }
            let (distribution, accepted) = job.distribute(&files, &terms, None)?;
            Ok((Sent { distribution, bundle: terms.bundle, files, skipped }, accepted))
        })
        .await
    }

    /// Takes files into the store without sending them yet: for who wants to look at what they are first.
    /// [`Node::distribute`] sends them.
    ///
    /// # Errors
    /// What the root and the store report. A file that cannot be read is skipped and reported.
    pub async fn take_in(&self, root: PathBuf, root_name: String, paths: Vec<PathBuf>) -> Result<Taken, Error> {
        let (job, now) = (self.job(), self.clock.now());
        let name = format!("taken in {}", self.next_bundle());
        blocking(move || {
            let _no_collection = job.content.keep_unpinned();
            let taken = job.take_in(&root, &root_name, &paths)?;
            let blobs: Vec<BlobHash> = taken.files.iter().map(|file| file.blob).collect();
            job.content.pin(&Pin::Lease { name, until: now.plus(TAKEN_LIFETIME) }, &blobs)?;
            Ok(taken)
        })
        .await?
    }

    /// Makes a distribution of files that are in the store.
    ///
    /// # Errors
    /// [`Error::Content`] when one of them is not, [`Error::Manifest`] for what does not fit a manifest, and what the store
    /// and the replica report.
    pub async fn distribute(&self, files: Vec<FileEntry>, terms: Terms) -> Result<DistributionId, Error> {
        let job = self.job();
        self.write_with(move || {
            let _no_collection = job.content.keep_unpinned();
            for file in &files {
                if !job.content.holds(&file.blob)? {
                    return Err(ContentError::Absent(file.blob).into());
                }
            }
            job.distribute(&files, &terms, None)
        })
        .await
    }

    /// Makes a distribution of files that came as streams: see [`Content::spool`]. As with [`Node::send`], who stops waiting for
    /// the answer does not stop the call.
    ///
    /// # Errors
    /// [`Error::NothingToSend`] without files, [`Error::Manifest`] for what does not fit a manifest, and what the store and the
    /// replica report, a full disk among it. Nothing is sent then.
    pub async fn send_streamed(&self, root_name: String, mut files: Vec<Streamed>, terms: Terms) -> Result<Sent, Error> {
        if files.is_empty() {
            return Err(Error::NothingToSend("the stream has no files".to_owned()));
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let job = self.job();
        self.write_with(move || {
            let _no_collection = job.content.keep_unpinned();
            let mut batch = job.content.batch();
            let entry = |file: Streamed| {
                let ingested = batch.add_spooled(file.bytes)?;
                Ok(FileEntry {
                    root: root_name.clone(),
                    path: file.path.as_str().into(),
                    size: ingested.size,
                    blob: ingested.hash,
                    sha256: ingested.sha256,
                    mode: file.mode,
                    mtime: file.mtime,
                    content_type: file.content_type,
                    display_name: None,
                })
            };
            let files = files.into_iter().map(entry).collect::<Result<Vec<_>, Error>>()?;
            batch.commit()?;
            let (distribution, accepted) = job.distribute(&files, &terms, None)?;
            Ok((Sent { distribution, bundle: terms.bundle, files, skipped: Vec::new() }, accepted))
        })
        .await
    }

    pub(super) fn job(&self) -> Job {
        Job {
            me: self.id(),
            content: self.content.clone(),
            replica: self.replica.clone(),
            ledger: self.ledger.clone(),
            now: self.clock.now(),
        }
    }
}

/// What a call needs, off the async threads.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) me: EndpointId,
    pub(super) content: Content,
    pub(super) replica: Replica,
    pub(super) ledger: Ledger,
    pub(super) now: Timestamp,
}

impl Job {
    pub(super) fn take_in(&self, root: &Path, root_name: &str, paths: &[PathBuf]) -> Result<Taken, Error> {
        let outbox = Outbox::open(root)?;
        let paths: Vec<&[u8]> = paths.iter().map(|path| bytes_of(path)).collect();
        let walk = if paths.is_empty() { outbox.everything() } else { outbox.paths(&paths) };
        self.ingest(walk, root, root_name)
    }

    pub(super) fn distribute(
        &self,
        files: &[FileEntry],
        terms: &Terms,
        package: Option<Package>,
    ) -> Result<(DistributionId, Accepted), Error> {
        let mut blobs: Vec<BlobHash> = files.iter().map(|file| file.blob).collect();
        let manifest = self.manifest(files, terms, package)?;
        if let Files::List { blob, .. } = &manifest.files {
            blobs.push(*blob);
        }
        let (id, _) = manifest.seal()?;
        // Pinned before anybody can ask for it, so that no collection comes between.
        self.content.pin(&Pin::Distribution(id, PinRole::Sender), &blobs)?;
        let (distribution, accepted) = self.replica.create_distribution(&manifest)?;
        debug_assert_eq!(distribution, id, "a distribution's id is the hash of its manifest");
        Ok((distribution, accepted))
    }

    /// Makes a distribution that has files removed. Its document is all of it, unless it has a list: then that is carried like others.
    pub(super) fn withdraw(&self, files: &[FileEntry], terms: &Terms) -> Result<(DistributionId, Accepted), Error> {
        let mut manifest = Manifest { removes: true, ..self.manifest(files, terms, None)? };
        match &manifest.files {
            Files::Inline(_) => manifest.carry = Carry::None,
            Files::List { blob, .. } => {
                let (id, _) = manifest.seal()?;
                self.content.pin(&Pin::Distribution(id, PinRole::Sender), &[*blob])?;
            }
        }
        Ok(self.replica.create_distribution(&manifest)?)
    }

    /// The same for a package whose blobs come into the store when somebody asks for them: nothing keeps them there.
    pub(super) fn tell_of(
        &self,
        files: &[FileEntry],
        terms: &Terms,
        package: Package,
    ) -> Result<(DistributionId, Accepted), Error> {
        Ok(self.replica.create_distribution(&self.manifest(files, terms, Some(package))?)?)
    }

    fn manifest(&self, files: &[FileEntry], terms: &Terms, package: Option<Package>) -> Result<Manifest, Error> {
        let listed = self.list(files)?;
        let made_at = self.stamp(files)?;
        Ok(Manifest {
            sender: self.me,
            bundle: terms.bundle.clone(),
            files: listed,
            scope: terms.scope.clone(),
            priority: terms.priority,
            made_at,
            expiry: made_at.plus(terms.lifetime),
            carry: terms.carry.clone(),
            together: terms.together,
            package,
            removes: false,
        })
    }

    fn ingest(&self, walk: Walk<'_>, root: &Path, root_name: &str) -> Result<Taken, Error> {
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        let mut batch = self.content.batch();
        let mut uncommitted = 0;
        for found in walk {
            let collected = match found {
                Found::File(collected) => collected,
                Found::Skipped { path, reason } => {
                    skipped.push(Skipped { path, reason: reason.to_string() });
                    continue;
                }
            };
            match entry(&mut batch, &collected, root, root_name) {
                Ok(entry) => files.push(entry),
                Err(error) if error.kind() == crate::ErrorKind::NoSpace => return Err(error),
                Err(error) => skipped.push(Skipped { path: collected.path, reason: error.to_string() }),
            }
            uncommitted += 1;
            if uncommitted == FILES_PER_COMMIT {
                std::mem::replace(&mut batch, self.content.batch()).commit()?;
                uncommitted = 0;
            }
        }
        batch.commit()?;
        Ok(Taken { files, skipped })
    }

    /// The files as a manifest names them: themselves, or a blob that lists them.
    fn list(&self, files: &[FileEntry]) -> Result<Files, Error> {
        if files.len() <= MAX_INLINE_FILES {
            return Ok(Files::Inline(files.to_vec()));
        }
        let list = self.content.ingest_bytes(&FileList(files.to_vec()).encode())?;
        let bytes = files.iter().map(|file| file.size).sum();
        Ok(Files::List { blob: list.hash, size: list.size, count: files.len() as u64, bytes })
    }

    /// Later than everything that this node has accepted or sent under one of the paths.
    fn stamp(&self, files: &[FileEntry]) -> Result<Timestamp, Error> {
        let paths: Vec<&[u8]> = files.iter().map(|file| file.path.as_slice()).collect();
        Ok(self.ledger.stamp(&paths, self.now)?)
    }
}

pub(super) fn entry(batch: &mut Batch, collected: &Collected, root: &Path, root_name: &str) -> Result<FileEntry, Error> {
    let file = collected.open()?;
    let path = root.join(path_of(&collected.path));
    let ingested = batch.add_file(&file, &path, &mut |_| ControlFlow::Continue(()))?;
    collected.check(&file)?;
    Ok(FileEntry {
        root: root_name.to_owned(),
        path: collected.path.clone(),
        size: ingested.size,
        blob: ingested.hash,
        sha256: ingested.sha256,
        mode: collected.mode,
        mtime: collected.mtime,
        content_type: None,
        display_name: None,
    })
}

fn bytes_of(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}
