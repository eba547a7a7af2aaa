//! Sending: files are taken into the store, named by a manifest, pinned, and only then told to anybody.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Node;
use crate::Error;
use crate::content::{Batch, Content, Pin, PinRole};
use crate::exchange::{Collected, Found, Ledger, Outbox, Walk};
use crate::model::{
    BlobHash, Carry, DistributionId, EndpointId, FileEntry, FileList, Files, MAX_INLINE_FILES, Manifest, Priority, Scope,
    Timestamp,
};
use crate::replica::Replica;

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
        let bundle = request.bundle.clone().unwrap_or_else(|| self.next_bundle());
        let job = Job {
            me: self.id(),
            content: self.content.clone(),
            replica: self.replica.clone(),
            ledger: self.ledger.clone(),
            now: self.clock.now(),
            bundle,
        };
        self.write_with(move || job.run(&request)).await
    }
}

/// One send call, off the async threads.
struct Job {
    me: EndpointId,
    content: Content,
    replica: Replica,
    ledger: Ledger,
    now: Timestamp,
    bundle: String,
}

impl Job {
    fn run(self, request: &SendRequest) -> Result<(Sent, crate::replica::Accepted), Error> {
        let outbox = Outbox::open(&request.root)?;
        let paths: Vec<&[u8]> = request.paths.iter().map(|path| bytes_of(path)).collect();
        let walk = if paths.is_empty() { outbox.everything() } else { outbox.paths(&paths) };
        let _no_collection = self.content.keep_unpinned();
        let (files, skipped) = self.ingest(walk, request)?;
        if files.is_empty() {
            let reason = skipped.first().map_or_else(
                || format!("{} has no files", request.root.display()),
                |first| format!("{}: {}", String::from_utf8_lossy(&first.path), first.reason),
            );
            return Err(Error::NothingToSend(reason));
        }
        let mut blobs: Vec<BlobHash> = files.iter().map(|file| file.blob).collect();
        let listed = self.list(&files)?;
        if let Files::List { blob, .. } = &listed {
            blobs.push(*blob);
        }
        let made_at = self.stamp(&files)?;
        let manifest = Manifest {
            sender: self.me,
            bundle: self.bundle.clone(),
            files: listed,
            scope: request.scope.clone(),
            priority: request.priority,
            made_at,
            expiry: made_at.plus(request.lifetime),
            carry: request.carry.clone(),
            together: request.together,
        };
        let (id, _) = manifest.seal()?;
        // Pinned before anybody can ask for it, so that no collection comes between.
        self.content.pin(&Pin::Distribution(id, PinRole::Sender), &blobs)?;
        let (distribution, accepted) = self.replica.create_distribution(&manifest)?;
        debug_assert_eq!(distribution, id, "a distribution's id is the hash of its manifest");
        Ok((Sent { distribution, bundle: self.bundle, files, skipped }, accepted))
    }

    fn ingest(&self, walk: Walk, request: &SendRequest) -> Result<(Vec<FileEntry>, Vec<Skipped>), Error> {
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
            match take_in(&mut batch, &collected, request) {
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
        Ok((files, skipped))
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

fn take_in(batch: &mut Batch, collected: &Collected, request: &SendRequest) -> Result<FileEntry, Error> {
    let file = collected.open()?;
    let path = request.root.join(path_of(&collected.path));
    let ingested = batch.add_file(&file, &path, &mut |_| ControlFlow::Continue(()))?;
    collected.check(&file)?;
    Ok(FileEntry {
        root: request.root_name.clone(),
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
