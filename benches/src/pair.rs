//! Two nodes in two processes on loopback: the sender here, the receiver in a child.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use peat_blobcore::content::BlobStatus;
use peat_blobcore::exchange::InboxPolicy;
use peat_blobcore::model::{DistributionState, EndpointId, Files};
use peat_blobcore::{Node, SendRequest};

use crate::child::{Running, say, wait};
use crate::documents::{NAMES, enroll};
use crate::measure::cpu_seconds;
use crate::streams::{Cost, runtime};
use crate::{Options, Outcome};

/// How long a delivery may take before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the receiver looks how far it is.
const LOOK: Duration = Duration::from_millis(1);

/// What sending a directory to the other process took.
pub(crate) struct Sent {
    /// From the call to the receipt.
    pub(crate) whole: Cost,
    /// At the receiver, from knowing the document to having the only file's blob: its bytes, and durably. Zero for many files.
    pub(crate) bytes: f64,
    pub(crate) durable: f64,
}

/// Sends what is beneath `root` from a new node here to a new node in a child.
pub(crate) fn send(options: &Options, root: &Path) -> Outcome<Sent> {
    let directory = options.temporary()?;
    let path = |name: &str| directory.path().join(name);
    enroll(directory.path())?;
    runtime()?.block_on(async {
        let alpha = Node::builder(path(NAMES[0])).listen(([127, 0, 0, 1], 0).into()).gossip(false).start().await?;
        let address = alpha.listening_on().into_iter().next().ok_or("the node has no socket")?;
        let arguments = [path(NAMES[1]), path("inbox")].map(|path| path.to_string_lossy().into_owned());
        let arguments = [&arguments[..], &[alpha.id().to_string(), address.to_string()]].concat();
        let mut child = Running::start("receiver", &arguments)?;
        child.line()?;
        let (before, started) = (cpu_seconds()?, Instant::now());
        let sent = alpha.send(SendRequest::new(root)).await?;
        let status = alpha.wait(sent.distribution, PATIENCE).await?;
        let seconds = started.elapsed().as_secs_f64();
        let sender = cpu_seconds()? - before;
        if status.state != DistributionState::Completed {
            return Err(format!("the distribution is {}", status.state).into());
        }
        child.go()?;
        let [bytes, durable, receiver] = child.numbers()?;
        child.go()?;
        child.end()?;
        alpha.shutdown().await;
        Ok(Sent { whole: Cost { seconds, sender, receiver }, bytes, durable })
    })
}

/// The receiver: data directory, inbox, and whom to dial.
pub(crate) fn child(arguments: &[String]) -> Outcome<()> {
    let [data, inbox, peer, address] = arguments else { return Err("the receiver wants four arguments".into()) };
    let peer: EndpointId = peer.parse()?;
    runtime()?.block_on(async {
        let node = Node::builder(PathBuf::from(data))
            .listen(([127, 0, 0, 1], 0).into())
            .gossip(false)
            .inbox(inbox, InboxPolicy::default())
            .peer(peer, [address.parse()?])
            .start()
            .await?;
        while node.peers().is_empty() || node.members().len() < 2 {
            tokio::time::sleep(LOOK).await;
        }
        let before = cpu_seconds()?;
        say("ready")?;
        let (bytes, durable) = watch(&node).await?;
        wait()?;
        say(&format!("{bytes} {durable} {}", cpu_seconds()? - before))?;
        wait()?;
        node.shutdown().await;
        Ok(())
    })
}

/// Watches the only file of the first distribution arrive.
async fn watch(node: &Node) -> Outcome<(f64, f64)> {
    let id = loop {
        match node.distributions().first() {
            Some(id) => break *id,
            None => tokio::time::sleep(LOOK).await,
        }
    };
    let started = Instant::now();
    let status = node.status(id).await?;
    let file = match &status.distribution.manifest.files {
        Files::Inline(files) if files.len() == 1 => files[0].clone(),
        _ => return Ok((0.0, 0.0)),
    };
    let mut bytes = None;
    loop {
        let seconds = started.elapsed().as_secs_f64();
        match node.content().status(&file.blob)? {
            BlobStatus::Held { .. } => return Ok((bytes.unwrap_or(seconds), seconds)),
            BlobStatus::Partial { size, held } if size == held => bytes = bytes.or(Some(seconds)),
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}
