//! Limits of what crosses: what the contract says, and what the library has.

use connectrpc::ConnectError;
use peat_blobapi::blob::{self, set_limits_request as set};
use peat_blobcore::model::NodeRef;
use peat_blobcore::{Limits, Node, Rate, RateChange, Rates};

use super::convert;
use super::errors::invalid;

/// The longest name of a peer: longer than any node's.
const MAX_PEER_BYTES: usize = 1024;

/// What a node lets cross.
pub(super) fn show(node: &Node) -> blob::LimitsResponse {
    let (limits, now) = (node.limits(), node.limits_in_force());
    let classes = limits.classes.iter().map(|(class, rates)| blob::ClassRates {
        priority: convert::priority_message(*class).into(),
        rates: message(rates).into(),
        ..Default::default()
    });
    let peers = limits.peers.iter().map(|(peer, rates)| blob::PeerRates {
        peer: convert::node_name(peer),
        rates: message(rates).into(),
        ..Default::default()
    });
    blob::LimitsResponse {
        node: message(&limits.node).into(),
        classes: classes.collect(),
        peers: peers.collect(),
        schedule: limits.schedule.iter().map(ToString::to_string).collect(),
        metered: limits.metered,
        in_force: message(&now.node).into(),
        period: now.period.map(|period| period.to_string()).unwrap_or_default(),
        until: now.until.map_or(0, |until| until.as_millis()),
        ..Default::default()
    }
}

/// Those limits with what a caller wants of them.
pub(super) fn change(mut limits: Limits, request: &blob::SetLimitsRequest) -> Result<Limits, ConnectError> {
    if request.reset {
        limits = Limits::default();
    }
    if let Some(node) = request.node.as_option() {
        limits.node = rates("node", node)?.applied_to(limits.node);
    }
    for wanted in &request.classes {
        let class = match wanted.priority.to_i32() {
            0 => return Err(invalid("classes.priority", "say which: bulk, low, routine, priority or critical")),
            number => convert::priority(number, Default::default())?,
        };
        let before = limits.classes.get(&class).copied().unwrap_or_default();
        limits.classes.insert(class, rates("classes.rates", &wanted.rates)?.applied_to(before));
    }
    for wanted in &request.peers {
        if !(1..=MAX_PEER_BYTES).contains(&wanted.peer.len()) {
            let why = format_args!("name a peer, or give its endpoint id: at most {MAX_PEER_BYTES} bytes");
            return Err(invalid("peers.peer", why));
        }
        let peer = NodeRef::from(wanted.peer.as_str());
        let before = limits.peers.get(&peer).copied().unwrap_or_default();
        limits.peers.insert(peer, rates("peers.rates", &wanted.rates)?.applied_to(before));
    }
    if let Some(schedule) = request.schedule.as_option() {
        let read =
            |text: &String| text.parse().map_err(|error| invalid("schedule", format_args!("{text:?} is none; give {error}")));
        limits.schedule = schedule.periods.iter().map(read).collect::<Result<_, _>>()?;
    }
    limits.metered = request.metered.unwrap_or(limits.metered);
    limits.classes.retain(|_, rates| !rates.is_free());
    limits.peers.retain(|_, rates| !rates.is_free());
    if limits.peers.len() > Limits::MAX_ENTRIES || limits.schedule.len() > Limits::MAX_ENTRIES {
        return Err(invalid("peers", format_args!("{} peers and times at most", Limits::MAX_ENTRIES)));
    }
    Ok(limits)
}

fn message(rates: &Rates) -> blob::Rates {
    let bytes = |rate: Option<Rate>| rate.map_or(0, Rate::bytes);
    blob::Rates { up: bytes(rates.up), down: bytes(rates.down), ..Default::default() }
}

fn rates(field: &str, change: &set::RateChange) -> Result<RateChange, ConnectError> {
    let rate = |bytes: Option<u64>| match bytes {
        None => Ok(None),
        Some(0) => Ok(Some(None)),
        Some(bytes) => match Rate::from_bytes(bytes) {
            Some(rate) => Ok(Some(Some(rate))),
            None => Err(invalid(
                field,
                format_args!("{bytes} bytes a second is no limit: give {} to {}, or 0 for none", Rate::MIN, Rate::MAX),
            )),
        },
    };
    Ok(RateChange { up: rate(change.up)?, down: rate(change.down)? })
}
