//! Sending without a daemon: a node joins, delivers, waits for the receipts, and leaves. What was not delivered stays in its
//! data directory, and goes on when a node runs there again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use peat_blobapi::blob;
use peat_blobcore::exchange::InboxPolicy;
use peat_blobcore::identity::{Formation, FormationKey};
use peat_blobcore::model::{Carry, Manifest, Scope};
use peat_blobcore::{Error, Node, NodeEvent, NodeEvents, SendRequest};

use super::as_api;
use super::complete;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::verbs::bars::Bars;
use crate::verbs::follow::verdict;
use crate::{show, values};

/// What the node is.
#[derive(Debug, Args)]
pub(crate) struct Direct {
    /// Send without a daemon, as the node of this data directory. Waits for the receipts.
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) data: Option<PathBuf>,
    /// A peer of that node, as ID@host:port. May be given several times.
    #[arg(long = "peer", value_name = "ID@HOST:PORT", value_parser = values::peer, requires = "data")]
    peers: Vec<values::Peer>,
    /// Where that node delivers what it is sent meanwhile: a directory, or none.
    #[arg(long, value_name = "DIRECTORY", default_value = "none", requires = "data")]
    inbox: PathBuf,
    /// The formation key in base64, for a node whose identity derives from it.
    #[arg(long, value_name = "KEY", env = "PEAT_BLOBD_SHARED_KEY", hide_env_values = true)]
    shared_key: Option<String>,
    /// The node id that its identity derives from.
    #[arg(long, value_name = "ID", env = "PEAT_BLOBD_NODE_ID")]
    node_id: Option<String>,
}

/// Joins, delivers, leaves.
pub(super) async fn run(
    options: &super::Options,
    data: &Path,
    scope: Scope,
    carry: values::Carry,
    output: &Output,
) -> Result<(), Failure> {
    if options.direct.peers.is_empty() {
        return Err(Failure::usage("without a daemon, nobody is known to send to").hint("name a peer with --peer ID@host:port"));
    }
    let request = request(options, scope, carriers(carry)?)?;
    let node = start(&options.direct, data).await?;
    let mut events = node.events();
    let outcome = deliver(&node, &mut events, request, options.timeout, output).await;
    node.shutdown().await;
    let (sent, status) = outcome?;
    let mut document = show::sent_json(&sent);
    document["status"] = show::status_json(&status);
    output.result(&document, || show::status_text(&status))?;
    complete(&sent, output)?;
    verdict(&status)
}

/// Who may carry it. Names are for who knows the members, and this node may not have met one yet.
fn carriers(carry: values::Carry) -> Result<Carry, Failure> {
    let id = |node: &String| {
        node.parse().map_err(|_| {
            Failure::usage(format!("--carry: {node:?} is no endpoint id")).hint("without a daemon, name it by its id")
        })
    };
    Ok(match carry {
        values::Carry::Nobody => Carry::None,
        values::Carry::Members => Carry::Members,
        values::Carry::Nodes(nodes) => Carry::Nodes(nodes.iter().map(id).collect::<Result<_, _>>()?),
    })
}

fn request(options: &super::Options, scope: Scope, carry: Carry) -> Result<SendRequest, Failure> {
    let path = options.path.canonicalize().map_err(Failure::io(format!("cannot send {}", options.path.display())))?;
    let (root, paths) = match (path.is_dir(), path.parent(), path.file_name()) {
        (false, Some(parent), Some(name)) => (parent.to_owned(), vec![PathBuf::from(name)]),
        _ => (path, Vec::new()),
    };
    Ok(SendRequest {
        root_name: options
            .root_name
            .clone()
            .or_else(|| root.file_name().map(|name| name.to_string_lossy().into_owned()))
            .unwrap_or_default(),
        carry,
        paths,
        scope,
        priority: options.priority.into(),
        lifetime: options.lifetime,
        together: options.together,
        bundle: options.bundle.clone(),
        ..SendRequest::new(root)
    })
}

async fn start(options: &Direct, data: &Path) -> Result<Node, Failure> {
    let mut builder = Node::builder(data);
    match (&options.shared_key, &options.node_id) {
        (Some(key), Some(id)) => {
            builder = builder.deterministic(Formation::deterministic(FormationKey::from_base64(key.trim())?), id);
        }
        (None, None) => {}
        _ => return Err(Failure::usage("--shared-key and --node-id belong together")),
    }
    if options.inbox != Path::new("none") {
        builder = builder.inbox(&options.inbox, InboxPolicy::default());
    }
    for peer in &options.peers {
        let found = tokio::net::lookup_host(&peer.address).await;
        let addresses = found.map_err(|error| {
            Failure::new(Kind::UNREACHABLE, format!("{} has no address: {error}", peer.address))
                .hint("look at the name, or give an IP address")
        })?;
        builder = builder.peer(peer.id, addresses);
    }
    Ok(builder.start().await?)
}

/// Sends, and shows how it comes along until it has come to an end or the time is up.
async fn deliver(
    node: &Node,
    events: &mut NodeEvents,
    request: SendRequest,
    timeout: Option<Duration>,
    output: &Output,
) -> Result<(blob::SendResponse, blob::GetDistributionResponse), Failure> {
    let sent = node.send(request).await?;
    let (me, id) = (node.identity(), sent.distribution);
    let response = as_api::sent(sent);
    if output.is_human() {
        output.result(&serde_json::Value::Null, || show::sent_text(&response))?;
    }
    let bars = output.is_interactive().then(Bars::new);
    let show_all = async {
        while let Some(event) = events.next().await {
            let Some(bars) = &bars else { continue };
            match event {
                NodeEvent::Progress { distribution, node: at, bytes } if distribution == id => {
                    bars.progress(&at.to_string(), bytes);
                }
                NodeEvent::Distribution { .. } | NodeEvent::PeerUp(_) => {
                    bars.status(&as_api::status(me, &node.status(id).await?));
                }
                _ => {}
            }
        }
        Err(Failure::from(Error::Stopped))
    };
    let ended = node.wait(id, timeout.unwrap_or(Manifest::MAX_LIFETIME));
    let status = tokio::select! {
        failed = show_all => return failed,
        ended = ended => match ended {
            Ok(status) => status,
            Err(Error::TimedOut(_)) => node.status(id).await?,
            Err(error) => return Err(error.into()),
        },
    };
    Ok((response, as_api::status(me, &status)))
}
