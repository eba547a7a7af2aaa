//! What a node in this process says, in the messages that a daemon would say it in: so that both look the same.

use peat_blobapi::blob;
use peat_blobcore::identity::Identity;
use peat_blobcore::model::DistributionState;
use peat_blobcore::{DistributionStatus, Sent};

use crate::values;

/// Files that are listed, as the API has it.
const LISTED_FILES: usize = 1000;

/// What was sent.
pub(super) fn sent(sent: Sent) -> blob::SendResponse {
    let file_count = sent.files.len() as u64;
    let bytes = sent.files.iter().map(|file| file.size).sum();
    let files = sent.files.into_iter().take(LISTED_FILES).map(|file| blob::File {
        path: file.path,
        size: file.size,
        blob: file.blob.to_string(),
        sha256: file.sha256.to_string(),
        held: true,
        ..Default::default()
    });
    let skipped = sent.skipped.into_iter().map(|skipped| blob::Skipped {
        path: skipped.path,
        reason: skipped.reason,
        ..Default::default()
    });
    blob::SendResponse {
        distribution_id: sent.distribution.to_string(),
        bundle: sent.bundle,
        files: files.collect(),
        file_count,
        bytes,
        skipped: skipped.collect(),
        ..Default::default()
    }
}

/// How a distribution of this node's stands.
pub(super) fn status(me: &Identity, status: &DistributionStatus) -> blob::GetDistributionResponse {
    let manifest = &status.distribution.manifest;
    let distribution = blob::Distribution {
        distribution_id: status.distribution.id.to_string(),
        sender: me.id().to_string(),
        sender_name: me.name().to_owned(),
        bundle: manifest.bundle.clone(),
        file_count: manifest.file_count(),
        bytes: manifest.total_bytes(),
        scope: values::api_scope(&manifest.scope).into(),
        priority: values::api_priority(manifest.priority).into(),
        made_at: manifest.made_at.as_millis(),
        expiry: manifest.expiry.as_millis(),
        state: state(status.state).into(),
        ..Default::default()
    };
    let targets = status.targets.iter().map(|(id, target)| {
        let record = target.record.as_ref();
        blob::Target {
            endpoint_id: id.to_string(),
            name: target.name.clone(),
            state: record.map(|record| record.state.to_string()).unwrap_or_default(),
            bytes: record.map(|record| record.bytes).unwrap_or_default(),
            error: record.and_then(|record| record.error.clone()).unwrap_or_default(),
            time: record.map(|record| record.time.as_millis()).unwrap_or_default(),
            why: target.why.clone(),
            receipt: record.is_some_and(|record| record.state.is_receipt()),
            ..Default::default()
        }
    });
    blob::GetDistributionResponse {
        distribution: distribution.into(),
        targets: targets.collect(),
        bytes_here: status.bytes_here,
        ..Default::default()
    }
}

fn state(state: DistributionState) -> blob::DistributionState {
    use blob::DistributionState as Api;
    match state {
        DistributionState::NoTargets => Api::DISTRIBUTION_STATE_NO_TARGETS,
        DistributionState::Pending => Api::DISTRIBUTION_STATE_PENDING,
        DistributionState::InProgress => Api::DISTRIBUTION_STATE_IN_PROGRESS,
        DistributionState::Completed => Api::DISTRIBUTION_STATE_COMPLETED,
        DistributionState::Partial => Api::DISTRIBUTION_STATE_PARTIAL,
        DistributionState::Failed => Api::DISTRIBUTION_STATE_FAILED,
        DistributionState::Expired => Api::DISTRIBUTION_STATE_EXPIRED,
        DistributionState::Cancelled => Api::DISTRIBUTION_STATE_CANCELLED,
    }
}
