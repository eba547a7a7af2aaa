//! What a distribution is to this node: the one place where scope, records, policy and time come together. Both the loop
//! and `explain` ask here, so that an explanation cannot differ from what is done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::targets::{is_target, outstanding};
use super::{Policy, View};
use crate::document::Distribution;
use crate::model::{FileEntry, Files, TargetState, Timestamp};

/// How far ahead of a trusted clock a manifest may be made.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// What a distribution is to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This node sent it, and it has not ended.
    Sent,
    /// It is meant for this node, which has yet to fetch or deliver it.
    Take,
    /// It is meant for others that do not have it, and may be carried for them.
    ForOthers,
    /// It is meant for this node, whose policy does not take it.
    Refused(Refusal),
    /// It was made in the future: not before this time.
    TooEarly(Timestamp),
    /// There is nothing to do.
    Settled(Settled),
}

/// Why there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// This node has its receipt, or has failed for good.
    Recorded(TargetState),
    /// The sender cancelled it.
    Cancelled,
    /// It expired.
    Expired,
    /// Its sender was expelled: nothing of it counts.
    SenderRevoked,
    /// It is not meant for this node, and nobody needs it carried.
    NotMeant,
}

/// Which rule of the policy does not take a distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its sender is not one whose distributions are taken.
    Sender,
    /// A file is larger than the cap.
    FileTooLarge {
        /// Its size in bytes.
        size: u64,
        /// The cap in bytes.
        cap: u64,
    },
    /// It alone is larger than the quota.
    OverQuota {
        /// The sum of its files in bytes.
        size: u64,
        /// The quota in bytes.
        quota: u64,
    },
    /// It has files removed, and this inbox keeps what came.
    Deletions,
    /// Its list of files is none, or contradicts its manifest.
    BadList(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sender => f.write_str("the sender is not among those that this node accepts"),
            Self::FileTooLarge { size, cap } => write!(f, "a file of {size} bytes is over the cap of {cap} bytes"),
            Self::OverQuota { size, quota } => write!(f, "{size} bytes are over the quota of {quota} bytes"),
            Self::Deletions => f.write_str("this node keeps files that their sender has removed"),
            Self::BadList(why) => write!(f, "the list of files cannot be used: {why}"),
        }
    }
}

/// The files of a distribution, wherever they are listed.
#[derive(Debug, Clone)]
pub(super) enum FileSource {
    Manifest(Arc<Distribution>),
    Listed(Arc<[FileEntry]>),
}

impl FileSource {
    /// `None` while the list is not here.
    pub(super) fn open(view: &dyn View, distribution: &Arc<Distribution>) -> Option<Result<Self, String>> {
        match &distribution.manifest.files {
            Files::Inline(_) => Some(Ok(Self::Manifest(Arc::clone(distribution)))),
            Files::List { .. } => view.listed_files(&distribution.id).map(|listed| listed.map(Self::Listed)),
        }
    }

    pub(super) fn entries(&self) -> &[FileEntry] {
        match self {
            Self::Listed(files) => files,
            Self::Manifest(distribution) => match &distribution.manifest.files {
                Files::Inline(files) => files,
                Files::List { .. } => &[],
            },
        }
    }
}

/// Decides what a distribution is to this node. `again` is set when it is to be delivered though a record says that it is.
pub(super) fn decide(now: Timestamp, policy: &Policy, view: &dyn View, distribution: &Arc<Distribution>, again: bool) -> Verdict {
    let me = view.me();
    let manifest = &distribution.manifest;
    let meant = is_target(view.nodes(), distribution, &me);
    let recorded = distribution.targets.get(&me).map(|record| record.state);
    if let Some(state) = recorded.filter(|state| meant && (state.is_receipt() || *state == TargetState::Failed) && !again) {
        return Verdict::Settled(Settled::Recorded(state));
    }
    if distribution.cancelled.is_some() {
        return Verdict::Settled(Settled::Cancelled);
    }
    if view.clock_trusted() && now >= manifest.expiry {
        return Verdict::Settled(Settled::Expired);
    }
    if manifest.sender == me {
        return Verdict::Sent;
    }
    if view.nodes().get(&manifest.sender).is_some_and(|node| node.revoked) {
        return Verdict::Settled(Settled::SenderRevoked);
    }
    let begin = manifest.made_at.minus(MAX_AHEAD);
    if view.clock_trusted() && begin > now {
        return Verdict::TooEarly(begin);
    }
    if !meant {
        let gone = view.nodes().get(&me).is_some_and(|node| node.retired || node.revoked);
        let carries = !gone && policy.carry_quota_bytes > 0 && manifest.carry.permits(&me);
        let needed = carries && !outstanding(view, distribution).is_empty();
        return if needed { Verdict::ForOthers } else { Verdict::Settled(Settled::NotMeant) };
    }
    // What was taken once is not refused when it is to be here again, whatever the policy has come to be.
    let taken = again && recorded.is_some_and(TargetState::is_receipt);
    match refusal(policy, view, distribution) {
        Some(refusal) if !taken || matches!(refusal, Refusal::BadList(_)) => Verdict::Refused(refusal),
        _ => Verdict::Take,
    }
}

fn refusal(policy: &Policy, view: &dyn View, distribution: &Arc<Distribution>) -> Option<Refusal> {
    let manifest = &distribution.manifest;
    if policy.accepted_senders.as_ref().is_some_and(|senders| !senders.contains(&manifest.sender)) {
        return Some(Refusal::Sender);
    }
    if manifest.removes && !policy.deletions {
        return Some(Refusal::Deletions);
    }
    let size = manifest.total_bytes();
    if let Some(quota) = policy.quota_bytes.filter(|quota| size > *quota) {
        return Some(Refusal::OverQuota { size, quota });
    }
    let files = match FileSource::open(view, distribution)? {
        Ok(files) => files,
        Err(why) => return Some(Refusal::BadList(why)),
    };
    let cap = policy.max_file_bytes?;
    let size = files.entries().iter().map(|file| file.size).find(|size| *size > cap)?;
    Some(Refusal::FileTooLarge { size, cap })
}
