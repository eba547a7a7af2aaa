//! The library's words and the contract's, one into the other.

use std::path::PathBuf;
use std::time::Duration;

use connectrpc::ConnectError;
use peat_blobapi::blob;
use peat_blobapi::blob::oneof;
use peat_blobcore::model::{Carry, DistributionId, DistributionState, EndpointId, FileEntry, Manifest, NodeRef, Priority, Scope};
use peat_blobcore::{Node, SendRequest, TargetStatus, Terms};

use super::errors::invalid;

/// Reads an endpoint id.
pub(crate) fn endpoint_id(field: &str, text: &str) -> Result<EndpointId, ConnectError> {
    text.parse().map_err(|_| invalid(field, format_args!("{text:?} is no endpoint id: 64 hex digits")))
}

/// A path of the daemon's machine.
pub(crate) fn absolute(field: &str, text: &str) -> Result<PathBuf, ConnectError> {
    match PathBuf::from(text) {
        _ if text.contains('\0') => Err(invalid(field, format_args!("{text:?} has a NUL in it, which no path has"))),
        path if path.is_absolute() => Ok(path),
        _ => Err(invalid(field, format_args!("{text:?} is not an absolute path"))),
    }
}

/// Whom a distribution is for.
pub(crate) fn scope(scope: Option<&blob::Scope>) -> Result<Scope, ConnectError> {
    match scope.and_then(|scope| scope.scope.as_ref()) {
        None => Err(invalid("scope", "say whom it is for: all, nodes or labels")),
        Some(oneof::scope::Scope::All(_)) => Ok(Scope::All),
        Some(oneof::scope::Scope::Nodes(nodes)) if nodes.nodes.is_empty() => {
            Err(invalid("scope.nodes", "name at least one node"))
        }
        Some(oneof::scope::Scope::Nodes(nodes)) => {
            Ok(Scope::Nodes(nodes.nodes.iter().map(|node| NodeRef::from(node.as_str())).collect()))
        }
        Some(oneof::scope::Scope::Labels(selector)) => {
            selector.parse().map(Scope::Labels).map_err(|error| invalid("scope.labels", error))
        }
    }
}

fn scope_message(scope: &Scope) -> blob::Scope {
    let scope = match scope {
        Scope::All => blob::scope::All::default().into(),
        Scope::Nodes(nodes) => blob::scope::Nodes { nodes: nodes.iter().map(node_name).collect(), ..Default::default() }.into(),
        Scope::Labels(selector) => oneof::scope::Scope::Labels(selector.to_string()),
    };
    blob::Scope { scope: Some(scope), ..Default::default() }
}

/// A node as a user names it.
pub(crate) fn node_name(node: &NodeRef) -> String {
    match node {
        NodeRef::Id(id) => id.to_string(),
        NodeRef::Name(name) => name.clone(),
    }
}

fn carry(carry: Option<&blob::Carry>) -> Result<Carry, ConnectError> {
    match carry.and_then(|carry| carry.carry.as_ref()) {
        None | Some(oneof::carry::Carry::Members(_)) => Ok(Carry::Members),
        Some(oneof::carry::Carry::Nobody(_)) => Ok(Carry::None),
        Some(oneof::carry::Carry::Nodes(nodes)) => {
            let ids = nodes.endpoint_ids.iter().map(|id| endpoint_id("carry.nodes", id)).collect::<Result<_, _>>()?;
            Ok(Carry::Nodes(ids))
        }
    }
}

/// A priority of the contract; `default` where none was said.
pub(crate) fn priority(number: i32, default: Priority) -> Result<Priority, ConnectError> {
    match number {
        0 => Ok(default),
        1 => Ok(Priority::Bulk),
        2 => Ok(Priority::Low),
        3 => Ok(Priority::Routine),
        4 => Ok(Priority::Priority),
        5 => Ok(Priority::Critical),
        other => Err(invalid("priority", format_args!("{other} is none"))),
    }
}

/// What a send call says beside its files.
pub(crate) fn request(root: PathBuf, options: &blob::SendOptions, default: Priority) -> Result<SendRequest, ConnectError> {
    let request = SendRequest::new(root);
    let lifetime = match options.lifetime_millis {
        0 => Manifest::DEFAULT_LIFETIME,
        millis => Duration::from_millis(millis),
    };
    let root_name = match options.root_name.as_str() {
        "" => request.root.file_name().map_or_else(|| request.root_name.clone(), |name| name.to_string_lossy().into_owned()),
        name => name.to_owned(),
    };
    Ok(SendRequest {
        root_name,
        scope: scope(options.scope.as_option())?,
        priority: priority(options.priority.to_i32(), default)?,
        lifetime,
        carry: carry(options.carry.as_option())?,
        together: options.together,
        bundle: Some(options.bundle.clone()).filter(|bundle| !bundle.is_empty()),
        ..request
    })
}

/// The same for files that are in the store already.
pub(crate) fn terms(bundle: String, scope: Scope, priority: Priority) -> Terms {
    Terms { bundle, scope, priority, lifetime: Manifest::DEFAULT_LIFETIME, carry: Carry::Members, together: false }
}

/// The state of the contract.
pub(crate) fn state(state: DistributionState) -> blob::DistributionState {
    match state {
        DistributionState::NoTargets => blob::DistributionState::NoTargets,
        DistributionState::Pending => blob::DistributionState::Pending,
        DistributionState::InProgress => blob::DistributionState::InProgress,
        DistributionState::Completed => blob::DistributionState::Completed,
        DistributionState::Partial => blob::DistributionState::Partial,
        DistributionState::Expired => blob::DistributionState::Expired,
        DistributionState::Failed => blob::DistributionState::Failed,
        DistributionState::Cancelled => blob::DistributionState::Cancelled,
    }
}

/// A distribution without its targets.
pub(crate) fn distribution(
    id: DistributionId,
    manifest: &Manifest,
    at: DistributionState,
    name_of: impl Fn(&EndpointId) -> String,
    root_name: String,
) -> blob::Distribution {
    blob::Distribution {
        distribution_id: id.to_string(),
        sender: manifest.sender.to_string(),
        sender_name: name_of(&manifest.sender),
        bundle: manifest.bundle.clone(),
        file_count: manifest.file_count(),
        bytes: manifest.total_bytes(),
        scope: scope_message(&manifest.scope).into(),
        priority: priority_message(manifest.priority).into(),
        made_at: manifest.made_at.as_millis(),
        expiry: manifest.expiry.as_millis(),
        state: state(at).into(),
        root_name,
        removes: manifest.removes,
        ..Default::default()
    }
}

pub(crate) const fn priority_message(priority: Priority) -> blob::Priority {
    match priority {
        Priority::Bulk => blob::Priority::PRIORITY_BULK,
        Priority::Low => blob::Priority::PRIORITY_LOW,
        Priority::Routine => blob::Priority::PRIORITY_ROUTINE,
        Priority::Priority => blob::Priority::PRIORITY_PRIORITY,
        Priority::Critical => blob::Priority::PRIORITY_CRITICAL,
    }
}

/// A distribution at one target.
pub(crate) fn target(id: &EndpointId, status: TargetStatus) -> blob::Target {
    let mut target = blob::Target { endpoint_id: id.to_string(), name: status.name, why: status.why, ..Default::default() };
    if let Some(record) = status.record {
        target.state = record.state.to_string();
        target.receipt = record.state.is_receipt();
        target.bytes = record.bytes;
        target.error = record.error.unwrap_or_default();
        target.time = record.time.as_millis();
    }
    target
}

/// A file of a distribution.
pub(crate) fn file(node: &Node, file: &FileEntry) -> blob::File {
    blob::File {
        path: file.path.clone(),
        size: file.size,
        blob: file.blob.to_string(),
        sha256: file.sha256.to_string(),
        // An index that cannot be read holds nothing that could be served.
        held: node.content().holds(&file.blob).unwrap_or(false),
        ..Default::default()
    }
}
