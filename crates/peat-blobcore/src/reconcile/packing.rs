//! What goes into a parcel. It leaves the node in a file that anybody may read, so blobs go in only where whoever sent them
//! lets more than their targets have them, or for those whom they are meant for.

use std::collections::BTreeSet;

use super::targets::{is_entitled, is_target};
use super::{Node, View};
use crate::document::Distribution;
use crate::model::{Carry, DistributionId, EndpointId, Timestamp};

/// What a parcel is to hold. The members' records, retirements and revocations are always in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParcelSelection {
    /// All documents, and the blobs of all that is neither cancelled nor expired.
    Everything,
    /// These distributions.
    Distributions(BTreeSet<DistributionId>),
    /// What these nodes lack: the documents of what is meant for one of them or was sent by one, and the blobs that one of
    /// them is meant to have and has signed no receipt for.
    Nodes(BTreeSet<EndpointId>),
}

/// What of a distribution goes into a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Nothing.
    Nothing,
    /// Its document.
    Document,
    /// Its document; the blobs are asked for, but the manifest does not let this node hand them to just anybody.
    Withheld,
    /// Its document and the blobs that are here.
    Whole,
}

/// Decides what of a distribution goes into a parcel.
#[must_use]
pub fn packing(now: Timestamp, view: &dyn View, distribution: &Distribution, selection: &ParcelSelection) -> Packing {
    let (nodes, manifest) = (view.nodes(), &distribution.manifest);
    let (selected, blobs) = match selection {
        ParcelSelection::Everything => (true, true),
        ParcelSelection::Distributions(ids) => (ids.contains(&distribution.id), true),
        ParcelSelection::Nodes(ids) => {
            let concerns = |id: &EndpointId| manifest.sender == *id || is_target(nodes, distribution, id);
            (ids.iter().any(concerns), ids.iter().any(|id| lacks(nodes, distribution, id)))
        }
    };
    let over = distribution.cancelled.is_some() || (view.clock_trusted() && now >= manifest.expiry);
    match (selected, blobs && !over) {
        (false, _) => Packing::Nothing,
        (true, false) => Packing::Document,
        (true, true) if may_hand_on(view, distribution, selection) => Packing::Whole,
        (true, true) => Packing::Withheld,
    }
}

fn lacks(nodes: &std::collections::BTreeMap<EndpointId, Node>, distribution: &Distribution, id: &EndpointId) -> bool {
    let signed = distribution.targets.get(id).is_some_and(|record| record.state.is_receipt());
    is_target(nodes, distribution, id) && !signed
}

/// Whether this node may put the blobs into a file: the sender decides over its own, all members may have what all may carry,
/// and else it must be for somebody who is entitled.
fn may_hand_on(view: &dyn View, distribution: &Distribution, selection: &ParcelSelection) -> bool {
    let for_the_entitled = match selection {
        ParcelSelection::Nodes(ids) => ids.iter().any(|id| is_entitled(view.nodes(), distribution, id)),
        ParcelSelection::Everything | ParcelSelection::Distributions(_) => false,
    };
    let manifest = &distribution.manifest;
    manifest.sender == view.me() || manifest.carry == Carry::Members || for_the_entitled
}
