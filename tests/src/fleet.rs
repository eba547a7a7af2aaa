//! Real nodes on loopback in this process: a formation in a temporary directory, and waiting for conditions.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peat_blobcore::exchange::InboxPolicy;
use peat_blobcore::identity::{AuthorityKey, FormationKey, Identity, files};
use peat_blobcore::model::{DistributionId, DistributionState, EndpointId, Labels};
use peat_blobcore::{Node, NodeBuilder};

/// How long a test waits for what must happen. Nothing in a test waits for what must not.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A formation with an authority, and a temporary directory for its nodes.
#[derive(Debug)]
pub struct Fleet {
    directory: tempfile::TempDir,
    /// The key that its members share.
    pub formation: FormationKey,
    /// Who says who is a member.
    pub authority: AuthorityKey,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// A new formation without members.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory, formation: FormationKey::generate(), authority: AuthorityKey::generate() }
    }

    /// A new formation whose directory is in memory where there is room: for tests that kill processes, not machines, and so
    /// need nothing of the disk.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    #[must_use]
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        let directory = if free < 1 << 30 { tempfile::tempdir() } else { tempfile::tempdir_in(memory) };
        Self { directory: directory.expect("a temporary directory"), ..Self::new() }
    }

    /// A path in the fleet's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the node of this name delivers.
    #[must_use]
    pub fn inbox(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.inbox"))
    }

    /// Makes the identity of a member.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn enroll(&self, name: &str, labels: &[(&str, &str)]) -> Identity {
        let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        files::create_member(&self.path(name), &self.formation, &self.authority, name, labels).expect("a new member")
    }

    /// Describes an enrolled node with an inbox, on a loopback port of its own. Gossip is off: tests say what they need.
    pub fn describe(&self, name: &str) -> NodeBuilder {
        describe(self.directory.path(), name)
    }

    /// Enrolls and starts a node that knows these peers.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&self, name: &str, peers: &[&Node]) -> Node {
        self.enroll(name, &[]);
        self.restart(name, peers).await
    }

    /// Starts a node that was enrolled before.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&self, name: &str, peers: &[&Node]) -> Node {
        let describe = |builder: NodeBuilder, peer: &&Node| builder.peer(peer.id(), peer.addresses());
        peers.iter().fold(self.describe(name), describe).start().await.expect("the node starts")
    }

    /// Writes files into a directory of the fleet; returns the directory.
    ///
    /// # Panics
    /// When they cannot be written.
    #[must_use]
    pub fn write(&self, directory: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let root = self.path(directory);
        for (path, content) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("beneath the root")).expect("a directory");
            std::fs::write(path, content).expect("written");
        }
        root
    }
}

/// Describes a node of the fleet in this directory, also for another process.
pub fn describe(directory: &Path, name: &str) -> NodeBuilder {
    Node::builder(directory.join(name))
        .listen(([127, 0, 0, 1], 0).into())
        .inbox(directory.join(format!("{name}.inbox")), InboxPolicy::default())
        .gossip(false)
}

/// Waits until `condition` holds, looking again whenever a little time has passed.
///
/// # Panics
/// With `what` when it does not hold by the deadline.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until all of a distribution's targets have signed for it.
///
/// # Panics
/// With why not when they have not by the deadline.
pub async fn completed(node: &Node, id: DistributionId) {
    let ended = node.wait(id, DEADLINE).await;
    let status = node.status(id).await.expect("it is known");
    assert_eq!(status.state, DistributionState::Completed, "{ended:?}: {:?}, peers {:?}", status.targets, node.peers());
}

/// Waits until two nodes have an admitted connection, as the first of them sees it.
///
/// # Panics
/// When they have none by the deadline.
pub async fn connected(node: &Node, peer: EndpointId) {
    eventually("connected", || async { node.peers().contains(&peer) }).await;
}

/// Every regular file beneath a directory, by its path there, with its content.
///
/// # Panics
/// When something cannot be read.
#[must_use]
pub fn contents(root: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let entry = entry.expect("an entry");
            let path = entry.path();
            if entry.file_type().expect("a type").is_dir() {
                directories.push(path);
            } else {
                let content = match std::fs::read(&path) {
                    // A node at work has renamed or removed it meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    read => read.expect("readable"),
                };
                found.insert(path.strip_prefix(root).expect("beneath the root").to_owned(), content);
            }
        }
    }
    found
}
