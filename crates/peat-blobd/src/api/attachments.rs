//! The attachment API that clients of this field already call. One distribution a file; what a call says is checked whole
//! before anything is sent, and unlike elsewhere nothing is completed without receipts.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use n0_future::stream;
use peat_blobapi::sidecar::{self, PeatSidecar, oneof::distribution_scope_spec};
use peat_blobcore::model::{
    DistributionId, DistributionState, FileEntry, Files, NodeRef, Priority, RelativePath, Scope, TargetState,
};
use peat_blobcore::network::Relay;
use peat_blobcore::{DistributionStatus, Error, NodeEvent};

use super::errors::{failed, invalid, shortened};
use super::upload::too_much;
use super::{Daemon, bundles, convert};
use crate::Config;

/// The service.
pub(crate) struct Attachments(pub(crate) Arc<Daemon>);

// The generated traits return what can be encoded as a message; these return the messages.
#[allow(refining_impl_trait)]
impl PeatSidecar for Attachments {
    async fn get_status(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, sidecar::GetStatusRequest>,
    ) -> ServiceResult<sidecar::GetStatusResponse> {
        let node = &self.0.node;
        let phase = if *self.0.stopping.borrow() { sidecar::NodePhase::ShuttingDown } else { sidecar::NodePhase::Ready };
        Response::ok(sidecar::GetStatusResponse {
            node_id: node.identity().name().to_owned(),
            endpoint_addr: node.id().to_string(),
            sync_active: true,
            connected_peers: u32::try_from(node.peers().len()).unwrap_or(u32::MAX),
            phase: phase.into(),
            ..Default::default()
        })
    }

    async fn connect_peer(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::ConnectPeerRequest>,
    ) -> ServiceResult<sidecar::ConnectPeerResponse> {
        let request = request.to_owned_message();
        let id = convert::endpoint_id("endpoint_id", &request.endpoint_id)?;
        if request.addresses.is_empty() {
            if request.relay_url.is_empty() {
                return Err(invalid("addresses", "give at least one, as host:port"));
            }
            let relay: Relay = request.relay_url.parse().map_err(|error| invalid("relay_url", error))?;
            if !self.0.config().relays.contains(&relay) {
                let why =
                    format!("relay_url: this node does not use {relay}; name it in its setting `relays`, or give addresses");
                return Err(ConnectError::failed_precondition(shortened(why)));
            }
        }
        self.0.connect(id, &request.addresses).await?;
        Response::ok(sidecar::ConnectPeerResponse::default())
    }

    async fn disconnect_peer(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::DisconnectPeerRequest>,
    ) -> ServiceResult<sidecar::DisconnectPeerResponse> {
        self.0.disconnect(convert::endpoint_id("endpoint_id", request.endpoint_id)?).await;
        Response::ok(sidecar::DisconnectPeerResponse::default())
    }

    async fn list_peers(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, sidecar::ListPeersRequest>,
    ) -> ServiceResult<sidecar::ListPeersResponse> {
        let peer = |(id, peer): (_, super::Peer)| sidecar::PeerInfo {
            endpoint_id: ToString::to_string(&id),
            addresses: peer.addresses,
            connected: peer.connected,
            ..Default::default()
        };
        Response::ok(sidecar::ListPeersResponse { peers: self.0.peers().into_iter().map(peer).collect(), ..Default::default() })
    }

    async fn send_attachments(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::SendAttachmentsRequest>,
    ) -> ServiceResult<sidecar::SendAttachmentsResponse> {
        let (request, config) = (request.to_owned_message(), self.0.config());
        let specs = checked(&request, &config)?;
        let scope = self.scope(request.scope.as_option(), &config)?;
        let priority = convert::priority(request.priority.to_i32(), config.default_priority)?;
        let bundle = match request.bundle_id {
            Some(bundle) if !bundle.is_empty() => bundle,
            _ => new_bundle(&self.0),
        };
        let mut files = Vec::new();
        for (index, spec) in specs.into_iter().enumerate() {
            files.push(self.take_in(index, spec).await?);
        }
        let (daemon, named) = (Arc::clone(&self.0), bundle.clone());
        // To its end even if the caller goes now: what was sent must be noted.
        let sending = tokio::spawn(async move { send_bundle(&daemon, &named, files, &scope, priority).await });
        let handles = sending.await.map_err(|_| failed(Error::Stopped))??;
        Response::ok(sidecar::SendAttachmentsResponse { bundle_id: bundle, handles, ..Default::default() })
    }

    async fn get_attachment_distribution(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::GetAttachmentDistributionRequest>,
    ) -> ServiceResult<sidecar::GetAttachmentDistributionResponse> {
        let id = distribution_id(request.distribution_id)?;
        let status = self.0.node.status(id).await.map_err(failed)?;
        let per_node = status.targets.iter().map(|(id, target)| node_state(id, target, &status)).collect();
        let (bytes_transferred, bytes_total) = bytes(&status);
        Response::ok(sidecar::GetAttachmentDistributionResponse {
            status: state(status.state).into(),
            bytes_transferred,
            bytes_total,
            per_node,
            error: error(&status),
            ..Default::default()
        })
    }

    async fn subscribe_attachment_bundle(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::SubscribeAttachmentBundleRequest>,
    ) -> ServiceResult<ServiceStream<sidecar::AttachmentProgress>> {
        let bundle = request.bundle_id.to_owned();
        // Subscribed before the look, so that nothing falls between.
        let events = self.0.node.events();
        let open = self.0.bundles.open(&self.0.node).await.map_err(failed)?;
        let Some(sent) = open.of(&bundle) else {
            return Err(ConnectError::not_found(shortened(format!("bundle_id: no bundle {bundle:?} was sent from here"))));
        };
        let begin = Subscription {
            daemon: Arc::clone(&self.0),
            events,
            open: sent.values().copied().collect(),
            ready: sent.values().copied().collect(),
            told: Default::default(),
        };
        Ok(Response::new(Box::pin(stream::unfold(begin, Subscription::next))))
    }

    async fn cancel_attachment_distribution(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::CancelAttachmentDistributionRequest>,
    ) -> ServiceResult<sidecar::CancelAttachmentDistributionResponse> {
        let id = distribution_id(request.distribution_id)?;
        let was_cancelled = !has_ended(self.0.node.status(id).await.map_err(failed)?.state);
        if was_cancelled {
            self.0.node.cancel(id).await.map_err(failed)?;
        }
        Response::ok(sidecar::CancelAttachmentDistributionResponse { was_cancelled, ..Default::default() })
    }

    async fn import_blob(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::ImportBlobRequest>,
    ) -> ServiceResult<sidecar::ImportBlobResponse> {
        Response::ok(self.0.import_blob(request.to_owned_message()).await?)
    }

    async fn export_blob(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::ExportBlobRequest>,
    ) -> ServiceResult<sidecar::ExportBlobResponse> {
        Response::ok(self.0.export_blob(request.to_owned_message()).await?)
    }

    async fn get_blob_status(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::GetBlobStatusRequest>,
    ) -> ServiceResult<sidecar::GetBlobStatusResponse> {
        Response::ok(self.0.blob_status(request.to_owned_message()).await?)
    }

    async fn list_blobs(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, sidecar::ListBlobsRequest>,
    ) -> ServiceResult<sidecar::ListBlobsResponse> {
        Response::ok(self.0.list_blobs(request.to_owned_message()).await?)
    }
}

/// Sends files that are in the store, one distribution each, but for those that the same call has sent before.
async fn send_bundle(
    daemon: &Daemon,
    bundle: &str,
    files: Vec<FileEntry>,
    scope: &Scope,
    priority: Priority,
) -> Result<Vec<sidecar::AttachmentHandle>, ConnectError> {
    // One call at a time: the same may come twice at once.
    let mut sent = daemon.bundles.open(&daemon.node).await.map_err(failed)?;
    let wanted: BTreeSet<_> = files.iter().map(bundles::key).collect();
    if wanted.len() < files.len() {
        return Err(invalid("files", "a file is named twice"));
    }
    // A call that failed half-way has sent some of them, and goes on when it comes again.
    if sent.of(bundle).is_some_and(|earlier| !earlier.keys().all(|key| wanted.contains(key))) {
        return Err(ConnectError::already_exists(shortened(format!(
            "bundle_id: {bundle:?} was sent with other files; choose another name, or none"
        ))));
    }
    let mut handles = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        let (key, blob) = (bundles::key(&file), file.blob);
        let id = match sent.of(bundle).and_then(|earlier| earlier.get(&key)) {
            Some(id) => *id,
            None => {
                let terms = convert::terms(bundle.to_owned(), scope.clone(), priority);
                let id = daemon.node.distribute(vec![file], terms).await.map_err(failed)?;
                sent.add(bundle, key, id);
                id
            }
        };
        handles.push(sidecar::AttachmentHandle {
            file_index: u32::try_from(index).unwrap_or(u32::MAX),
            blob_token: blob.to_string(),
            distribution_id: id.to_string(),
            ..Default::default()
        });
    }
    Ok(handles)
}

/// A file to take in: where its root is, and what is claimed of it.
struct Spec {
    root: PathBuf,
    claim: sidecar::FileSpec,
}

/// Checks everything that can be checked without touching a file.
fn checked(request: &sidecar::SendAttachmentsRequest, config: &Config) -> Result<Vec<Spec>, ConnectError> {
    if config.outbox.is_empty() {
        return Err(ConnectError::unimplemented("no outbox root is configured: files can be sent from none"));
    }
    if request.files.is_empty() {
        return Err(invalid("files", "name at least one"));
    }
    if request.files.len() > config.max_files_per_bundle as usize {
        return Err(too_much(format!("files: more than {}", config.max_files_per_bundle), "max_files_per_bundle"));
    }
    let sum = request.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size_bytes));
    let sum = sum.ok_or_else(|| invalid("files", "their sizes do not add up in 64 bits"))?;
    if let Some(most) = config.max_bundle_bytes.filter(|most| sum > *most) {
        return Err(too_much(format!("files: {sum} bytes, more than {most}"), "max_bundle_bytes"));
    }
    let spec = |(index, file): (usize, &sidecar::FileSpec)| {
        let field = |name: &str| format!("files[{index}].{name}");
        let Some(root) = config.outbox.get(&file.root_name) else {
            return Err(invalid(&field("root_name"), format_args!("{:?} is no outbox root of this node", file.root_name)));
        };
        RelativePath::parse(file.relative_path.as_bytes()).map_err(|error| invalid(&field("relative_path"), error))?;
        if file.sha256.len() != 32 {
            return Err(invalid(&field("sha256"), format_args!("{} bytes, not 32", file.sha256.len())));
        }
        if let Some(most) = config.max_file_bytes.filter(|most| file.size_bytes > *most) {
            return Err(too_much(format!("{}: more than {most}", field("size_bytes")), "max_file_bytes"));
        }
        Ok(Spec { root: root.clone(), claim: file.clone() })
    };
    request.files.iter().enumerate().map(spec).collect()
}

impl Attachments {
    /// Takes a file into the store if it is what is claimed.
    async fn take_in(&self, index: usize, spec: Spec) -> Result<FileEntry, ConnectError> {
        let field = |name: &str| format!("files[{index}].{name}");
        let Spec { root, claim } = spec;
        let size = std::fs::symlink_metadata(root.join(&claim.relative_path));
        match size {
            Ok(found) if !found.is_file() => return Err(invalid(&field("relative_path"), "it is not a regular file")),
            Ok(found) if found.len() != claim.size_bytes => {
                return Err(invalid(&field("size_bytes"), format_args!("the file has {} bytes", found.len())));
            }
            Ok(_) => {}
            Err(error) => return Err(invalid(&field("relative_path"), error)),
        }
        let paths = vec![PathBuf::from(&claim.relative_path)];
        let taken = self.0.node.take_in(root, claim.root_name.clone(), paths).await.map_err(failed)?;
        if let Some(skipped) = taken.skipped.first() {
            return Err(invalid(&field("relative_path"), &skipped.reason));
        }
        let Ok([file]) = <[FileEntry; 1]>::try_from(taken.files) else {
            return Err(invalid(&field("relative_path"), "it is not a regular file"));
        };
        if file.path != PathBuf::from(&claim.relative_path).as_os_str().as_bytes() {
            return Err(invalid(&field("relative_path"), "it names the file by a detour"));
        }
        if file.size != claim.size_bytes {
            return Err(invalid(&field("size_bytes"), format_args!("the file has {} bytes", file.size)));
        }
        if file.sha256.as_bytes().as_slice() != claim.sha256 {
            return Err(invalid(&field("sha256"), format_args!("the file's is {}", file.sha256)));
        }
        Ok(FileEntry { content_type: claim.content_type, display_name: claim.display_name, ..file })
    }

    fn scope(&self, spec: Option<&sidecar::DistributionScopeSpec>, config: &Config) -> Result<Scope, ConnectError> {
        use distribution_scope_spec::Scope as Spec;
        match spec.and_then(|spec| spec.scope.as_ref()) {
            None => Err(invalid("scope", "say whom it is for")),
            Some(Spec::AllNodes(_)) => Ok(Scope::All),
            Some(Spec::NodeList(list)) if list.node_ids.is_empty() => Err(invalid("scope.node_list", "name at least one node")),
            Some(Spec::NodeList(list)) if list.node_ids.len() > config.max_node_list_len as usize => {
                Err(too_much(format!("scope.node_list: more than {} nodes", config.max_node_list_len), "max_node_list_len"))
            }
            Some(Spec::NodeList(list)) => Ok(Scope::Nodes(list.node_ids.iter().map(|id| NodeRef::from(id.as_str())).collect())),
            Some(Spec::Formation(formation)) => {
                let ours = self.0.node.identity().formation().id().to_string();
                match formation.formation_id == ours {
                    true => Ok(Scope::All),
                    false => Err(ConnectError::failed_precondition(format!("scope.formation: this node's formation is {ours}"))),
                }
            }
            Some(Spec::Capable(_)) => Err(ConnectError::unimplemented("scope.capable: name nodes, or use all_nodes")),
        }
    }
}

/// A name for a call that has none.
pub(super) fn new_bundle(daemon: &Daemon) -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    format!("{}-{:016x}", daemon.node.id().short(), u64::from_le_bytes(bytes))
}

fn distribution_id(text: &str) -> Result<DistributionId, ConnectError> {
    let unknown = |_| ConnectError::not_found(shortened(format!("distribution_id: no distribution {text:?} is known here")));
    text.parse().map_err(unknown)
}

/// The state of the whole in this API's words: who has nobody to go to waits.
const fn state(state: DistributionState) -> sidecar::DistributionStatus {
    match state {
        DistributionState::NoTargets | DistributionState::Pending => sidecar::DistributionStatus::DISTRIBUTION_STATUS_PENDING,
        DistributionState::InProgress => sidecar::DistributionStatus::DISTRIBUTION_STATUS_IN_PROGRESS,
        DistributionState::Completed => sidecar::DistributionStatus::DISTRIBUTION_STATUS_COMPLETED,
        DistributionState::Partial => sidecar::DistributionStatus::DISTRIBUTION_STATUS_PARTIAL,
        DistributionState::Expired | DistributionState::Failed => sidecar::DistributionStatus::DISTRIBUTION_STATUS_FAILED,
        DistributionState::Cancelled => sidecar::DistributionStatus::DISTRIBUTION_STATUS_CANCELLED,
    }
}

const fn has_ended(state: DistributionState) -> bool {
    !matches!(state, DistributionState::NoTargets | DistributionState::Pending | DistributionState::InProgress)
}

fn node_state(
    id: &peat_blobcore::model::EndpointId,
    target: &peat_blobcore::TargetStatus,
    status: &DistributionStatus,
) -> sidecar::NodeTransferState {
    use sidecar::DistributionStatus as Status;
    let at = target.record.as_ref().map(|record| record.state);
    let word = match at {
        None | Some(TargetState::Pending) => Status::DISTRIBUTION_STATUS_PENDING,
        Some(TargetState::Fetching | TargetState::Held) => Status::DISTRIBUTION_STATUS_IN_PROGRESS,
        Some(TargetState::Delivered | TargetState::Superseded) => Status::DISTRIBUTION_STATUS_COMPLETED,
        Some(TargetState::Failed | TargetState::Refused) => Status::DISTRIBUTION_STATUS_FAILED,
        Some(TargetState::Cancelled) => Status::DISTRIBUTION_STATUS_CANCELLED,
    };
    let bytes_transferred = bytes_at(target, status);
    sidecar::NodeTransferState { node_id: id.to_string(), status: word.into(), bytes_transferred, ..Default::default() }
}

fn bytes_at(target: &peat_blobcore::TargetStatus, status: &DistributionStatus) -> u64 {
    match &target.record {
        Some(record) if record.state.is_receipt() => status.distribution.manifest.total_bytes(),
        Some(record) => record.bytes,
        None => 0,
    }
}

/// Bytes that have come to all targets together, and those that are to come.
fn bytes(status: &DistributionStatus) -> (u64, u64) {
    let whole = status.distribution.manifest.total_bytes().saturating_mul(status.targets.len().max(1) as u64);
    (status.targets.values().map(|target| bytes_at(target, status)).sum::<u64>().min(whole), whole)
}

fn error(status: &DistributionStatus) -> Option<String> {
    match status.state {
        DistributionState::NoTargets => Some("no targets: no node that is known is meant".to_owned()),
        DistributionState::Expired => Some("expired before any target had it".to_owned()),
        _ => {
            let of = |target: &peat_blobcore::TargetStatus| {
                let error = target.record.as_ref()?.error.as_ref()?;
                Some(format!("{}: {error}", target.name))
            };
            let errors: Vec<String> = status.targets.values().filter_map(of).collect();
            (!errors.is_empty()).then(|| errors.join("; "))
        }
    }
}

/// A subscriber to a bundle.
struct Subscription {
    daemon: Arc<Daemon>,
    events: peat_blobcore::NodeEvents,
    /// Those that have not been told to have ended.
    open: BTreeSet<DistributionId>,
    /// Those to look at now.
    ready: BTreeSet<DistributionId>,
    /// What was told last of each.
    told: std::collections::BTreeMap<DistributionId, (DistributionState, u64)>,
}

impl Subscription {
    /// The next frame; none once all have ended.
    async fn next(mut self) -> Option<(Result<sidecar::AttachmentProgress, ConnectError>, Self)> {
        loop {
            if let Some(id) = self.ready.pop_first() {
                match self.look(id).await {
                    Ok(Some(frame)) => return Some((Ok(frame), self)),
                    Ok(None) => continue,
                    Err(error) => {
                        return Some((Err(failed(error)), Self { open: BTreeSet::new(), ready: BTreeSet::new(), ..self }));
                    }
                }
            }
            if self.open.is_empty() {
                return None;
            }
            let event = tokio::select! {
                event = self.events.next() => event?,
                () = self.daemon.stopped() => return None,
            };
            match event {
                NodeEvent::Distribution { id, .. } | NodeEvent::Progress { distribution: id, .. } if self.open.contains(&id) => {
                    self.ready.insert(id);
                }
                // What was missed may have been of any of them.
                NodeEvent::Missed(_) => self.ready.extend(self.open.iter().copied()),
                _ => {}
            }
        }
    }

    /// A frame, if anything is new. A late subscriber hears first of what has ended, then of what moves.
    async fn look(&mut self, id: DistributionId) -> Result<Option<sidecar::AttachmentProgress>, Error> {
        let status = self.daemon.node.status(id).await?;
        let (bytes_transferred, bytes_total) = bytes(&status);
        let now = (status.state, bytes_transferred);
        if has_ended(status.state) {
            self.open.remove(&id);
        }
        if self.told.insert(id, now) == Some(now) {
            return Ok(None);
        }
        let blob_token = match &status.distribution.manifest.files {
            Files::Inline(files) => files.first().map(|file| file.blob.to_string()).unwrap_or_default(),
            Files::List { blob, .. } => blob.to_string(),
        };
        Ok(Some(sidecar::AttachmentProgress {
            distribution_id: id.to_string(),
            blob_token,
            status: state(status.state).into(),
            bytes_transferred,
            bytes_total,
            error: error(&status),
            ..Default::default()
        }))
    }
}
