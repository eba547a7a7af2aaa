//! What a node tells those who watch it.

use tokio::sync::broadcast;

use crate::model::{DistributionId, DistributionState, EndpointId};

/// Something that happened. Nothing is decided by who hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// An admitted connection with a peer exists.
    PeerUp(EndpointId),
    /// None exists any more.
    PeerDown(EndpointId),
    /// A distribution as a whole stands elsewhere than before.
    Distribution {
        /// Which.
        id: DistributionId,
        /// Where.
        state: DistributionState,
    },
    /// How far a node has come with a distribution. Not every step is told.
    Progress {
        /// Which distribution.
        distribution: DistributionId,
        /// Which node; this one included.
        node: EndpointId,
        /// Verified bytes of the distribution there.
        bytes: u64,
    },
    /// A file of a distribution was put into this node's inbox, or an equal one was there.
    File {
        /// Which distribution.
        distribution: DistributionId,
        /// The file's place in the manifest's list.
        index: u32,
    },
    /// A file went from this node's inbox, since its sender removed it.
    Removed {
        /// The distribution that says so.
        distribution: DistributionId,
        /// The file's place in the manifest's list.
        index: u32,
    },
    /// Two lives or copies of one node speak at once.
    Clone(EndpointId),
    /// The listener was too slow, and missed so many events. [`Node::status`](crate::Node::status) tells what counts.
    Missed(u64),
}

/// A stream of events, from the moment at which it was asked for.
#[derive(Debug)]
pub struct NodeEvents(pub(super) broadcast::Receiver<NodeEvent>);

impl NodeEvents {
    /// The next event; none once the node is shut down.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(NodeEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
