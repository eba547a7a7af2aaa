//! The API of our own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use peat_blobapi::blob::{self, BlobService};
use peat_blobcore::model::{BlobHash, DistributionId, EndpointId};
use peat_blobcore::{DistributionStatus, NodeEvent, SendRequest, Sent};

use super::errors::{failed, invalid};
use super::{Daemon, convert, diagnose, limits, parcels, streams, upload};
use crate::silence;

/// Files that one answer lists.
const MAX_FILES_LISTED: usize = 1000;
/// Distributions of one page, where the caller does not say.
const PAGE: usize = 100;
/// Distributions of one page at most.
const MAX_PAGE: usize = 1000;

/// The service.
pub(crate) struct Native(pub(crate) Arc<Daemon>);

fn blob_hash(field: &str, text: &str) -> Result<BlobHash, connectrpc::ConnectError> {
    text.parse().map_err(|_| invalid(field, format_args!("{text:?} is no hash: 64 hex digits")))
}

impl Native {
    fn names(&self) -> BTreeMap<EndpointId, String> {
        self.0.node.members().into_iter().map(|(id, record)| (id, record.name)).collect()
    }

    fn describe(status: &DistributionStatus, names: &BTreeMap<EndpointId, String>) -> blob::Distribution {
        let manifest = &status.distribution.manifest;
        let root_name = match &manifest.files {
            peat_blobcore::model::Files::Inline(files) => files.first().map(|file| file.root.clone()).unwrap_or_default(),
            peat_blobcore::model::Files::List { .. } => String::new(),
        };
        let name_of = |id: &EndpointId| names.get(id).cloned().unwrap_or_default();
        convert::distribution(status.distribution.id, manifest, status.state, name_of, root_name)
    }

    fn sent(&self, sent: Sent) -> blob::SendResponse {
        blob::SendResponse {
            distribution_id: sent.distribution.to_string(),
            bundle: sent.bundle,
            file_count: sent.files.len() as u64,
            bytes: sent.files.iter().map(|file| file.size).sum(),
            files: sent.files.iter().take(MAX_FILES_LISTED).map(|file| convert::file(&self.0.node, file)).collect(),
            skipped: sent
                .skipped
                .into_iter()
                .map(|skipped| blob::Skipped { path: skipped.path, reason: skipped.reason, ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }
}

// The generated traits return what can be encoded as a message; these return the messages.
#[allow(refining_impl_trait)]
impl BlobService for Native {
    async fn get_node(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::GetNodeRequest>,
    ) -> ServiceResult<blob::GetNodeResponse> {
        let node = &self.0.node;
        let usage = node.content().usage().map_err(failed)?;
        let blocks = node.block_bytes();
        let mut warnings = Vec::new();
        let stats = node.stats();
        if !stats.clock_plausible {
            warnings.push("this node's clock does not agree with its peers: nothing expires until it does".to_owned());
        }
        if node.content().room().map_err(failed)? == 0 {
            warnings.push("the store's file system has no room: nothing is taken in until there is some".to_owned());
        }
        if node.limits().metered {
            warnings.push("the link is metered: of blobs only what is critical is fetched and served".to_owned());
        }
        if stats.held > 0 {
            warnings.push(format!("{} envelopes from the future are held back: check the clocks", stats.held));
        }
        let outboxes = self.0.outboxes.statuses().await;
        warnings.extend(
            outboxes
                .iter()
                .filter(|outbox| !outbox.problem.is_empty())
                .map(|outbox| format!("files of the watched outbox {} are not sent: {}", outbox.root_name, outbox.problem)),
        );
        let held = outboxes.iter().filter(|outbox| !outbox.held.is_empty());
        warnings.extend(
            held.map(|outbox| {
                format!("nothing is taken for removed from the watched outbox {}: {}", outbox.root_name, outbox.held)
            }),
        );
        let problem = self.0.hooks.problem();
        warnings.extend(problem.map(|problem| format!("the inbox hook failed: {problem}")));
        let problem = self.0.upstreams_watched().and_then(|watched| watched.problem);
        warnings.extend(problem.map(|problem| format!("not all that is new in upstreams is brought: {problem}")));
        Response::ok(blob::GetNodeResponse {
            endpoint_id: node.id().to_string(),
            name: node.identity().name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            formation_id: node.identity().formation().id().to_string(),
            enrolled: matches!(node.identity().credential(), peat_blobcore::model::Credential::Certificate(_)),
            addresses: node.addresses().iter().map(ToString::to_string).collect(),
            connected_peers: u32::try_from(node.peers().len()).unwrap_or(u32::MAX),
            distributions: node.distributions().len() as u64,
            store: blob::StoreUsage {
                blobs: usage.blobs,
                bytes: usage.bytes,
                assembly_bytes: usage.assembly_bytes,
                free_bytes: usage.free,
                ..Default::default()
            }
            .into(),
            inbox: self.0.config().inbox.as_ref().map(|inbox| inbox.display().to_string()).unwrap_or_default(),
            bytes_received: blocks.received,
            bytes_served: blocks.served,
            warnings,
            authority: node.identity().formation().authority().map(|id| id.to_string()).unwrap_or_default(),
            limits: limits::show(node).into(),
            outboxes,
            ..Default::default()
        })
    }

    async fn list_peers(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::ListPeersRequest>,
    ) -> ServiceResult<blob::ListPeersResponse> {
        let gone = self.0.node.gone();
        let mut peers = self.0.peers();
        // Nothing else is known of most that were expelled.
        for id in gone.revoked.keys().chain(&gone.retired).filter(|id| **id != self.0.node.id()) {
            let peer = peers.entry(*id).or_default();
            if let Some(name) = gone.revoked.get(id).and_then(|revoked| revoked.name.clone()) {
                peer.name = name;
            }
        }
        let idle = self.0.node.idle_peers();
        let mut stats: BTreeMap<_, _> = self.0.node.peer_stats().into_iter().map(|stats| (stats.id, stats)).collect();
        let peer = |(id, peer): (EndpointId, super::Peer)| {
            let stats = stats.remove(&id);
            let micros = stats.as_ref().and_then(|stats| stats.round_trip).map_or(0, |time| time.as_micros());
            blob::Peer {
                endpoint_id: id.to_string(),
                name: peer.name,
                addresses: peer.addresses,
                connected: peer.connected,
                labels: peer.labels,
                rtt_micros: u64::try_from(micros).unwrap_or(u64::MAX),
                bytes_received: stats.as_ref().map_or(0, |stats| stats.received_bytes),
                bytes_sent: stats.as_ref().map_or(0, |stats| stats.sent_bytes),
                retired: gone.retired.contains(&id),
                revoked: gone.revoked.contains_key(&id),
                idle: idle.contains(&id),
                ..Default::default()
            }
        };
        let peers = peers.into_iter().map(peer).collect();
        Response::ok(blob::ListPeersResponse { peers, ..Default::default() })
    }

    async fn connect_peer(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ConnectPeerRequest>,
    ) -> ServiceResult<blob::ConnectPeerResponse> {
        let request = request.to_owned_message();
        let id = convert::endpoint_id("endpoint_id", &request.endpoint_id)?;
        self.0.connect(id, &request.addresses).await?;
        Response::ok(blob::ConnectPeerResponse::default())
    }

    async fn disconnect_peer(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::DisconnectPeerRequest>,
    ) -> ServiceResult<blob::DisconnectPeerResponse> {
        let id = convert::endpoint_id("endpoint_id", request.endpoint_id)?;
        let was_connected = self.0.disconnect(id).await;
        Response::ok(blob::DisconnectPeerResponse { was_connected, ..Default::default() })
    }

    async fn send_path(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::SendPathRequest>,
    ) -> ServiceResult<blob::SendResponse> {
        let message = request.to_owned_message();
        let mut root = convert::absolute("root", &message.root)?;
        let config = self.0.config();
        if message.paths.len() > config.max_files_per_bundle as usize {
            let what = format!("paths: more than {}", config.max_files_per_bundle);
            return Err(upload::too_much(what, "max_files_per_bundle"));
        }
        let mut paths: Vec<PathBuf> = message.paths.iter().map(PathBuf::from).collect();
        match std::fs::metadata(&root) {
            // The file itself, under its own name.
            Ok(found) if found.is_file() => {
                paths = root.file_name().map(PathBuf::from).into_iter().collect();
                root.pop();
            }
            Ok(found) if !found.is_dir() => return Err(invalid("root", "it is neither a directory nor a regular file")),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidFilename => return Err(invalid("root", error)),
            // What else is wrong with it is found when it is read.
            Ok(_) | Err(_) => {}
        }
        let send = convert::request(root, &message.options, config.default_priority)?;
        let send = SendRequest { paths, ..send };
        let sent = self.0.node.send(send).await.map_err(failed)?;
        Response::ok(self.sent(sent))
    }

    async fn send_stream(
        &self,
        ctx: RequestContext,
        requests: InboundStream<blob::SendStreamRequest>,
    ) -> ServiceResult<blob::SendResponse> {
        let sent = upload::receive(&self.0, silence::explained(&ctx, requests)).await?;
        Response::ok(self.sent(sent))
    }

    async fn get_distribution(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::GetDistributionRequest>,
    ) -> ServiceResult<blob::GetDistributionResponse> {
        let id = self.0.find(request.distribution_id)?;
        let status = self.0.node.status(id).await.map_err(failed)?;
        let distribution = Self::describe(&status, &self.names());
        let files = match request.files {
            true => self.0.node.files(id).await.map_err(failed)?.unwrap_or_default(),
            false => Vec::new(),
        };
        Response::ok(blob::GetDistributionResponse {
            distribution: distribution.into(),
            targets: status.targets.into_iter().map(|(id, status)| convert::target(&id, status)).collect(),
            files: files.iter().take(MAX_FILES_LISTED).map(|file| convert::file(&self.0.node, file)).collect(),
            bytes_here: status.bytes_here,
            ..Default::default()
        })
    }

    async fn list_distributions(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ListDistributionsRequest>,
    ) -> ServiceResult<blob::ListDistributionsResponse> {
        let request = request.to_owned_message();
        let limit = match request.limit as usize {
            0 => PAGE,
            limit => limit.min(MAX_PAGE),
        };
        // Newest first; the id tells those of one millisecond apart, also from page to page.
        let mut found = Vec::new();
        for id in self.0.node.distributions() {
            let distribution = self.0.node.distribution(id).await.map_err(failed)?;
            if request.bundle.is_empty() || distribution.manifest.bundle == request.bundle {
                found.push((std::cmp::Reverse(distribution.manifest.made_at), id));
            }
        }
        found.sort_unstable();
        let total = found.len() as u64;
        let from = match request.after.as_str() {
            "" => 0,
            after => {
                let after: DistributionId = after.parse().map_err(|_| invalid("after", "it is the `next` of the page before"))?;
                found.iter().position(|(_, id)| *id == after).map_or(0, |place| place + 1)
            }
        };
        let page = &found[from..found.len().min(from + limit)];
        let names = self.names();
        let mut distributions = Vec::new();
        for (_, id) in page {
            distributions.push(Self::describe(&self.0.node.status(*id).await.map_err(failed)?, &names));
        }
        let next = match page.last() {
            Some((_, last)) if from + page.len() < found.len() => last.to_string(),
            _ => String::new(),
        };
        Response::ok(blob::ListDistributionsResponse { distributions, total, next, ..Default::default() })
    }

    async fn watch(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::WatchRequest>,
    ) -> ServiceResult<ServiceStream<blob::WatchResponse>> {
        // Taken before the look, so that nothing falls between.
        let from = request.after.map_or_else(|| self.0.events.next(), |after| after.saturating_add(1));
        let (only, first) = match request.distribution_id {
            "" => (None, None),
            text => {
                let id = self.0.find(text)?;
                let state = self.0.node.status(id).await.map_err(failed)?.state;
                (Some(id), Some(NodeEvent::Distribution { id, state }))
            }
        };
        Ok(Response::new(streams::watch(Arc::clone(&self.0), from, only, first)))
    }

    async fn cancel_distribution(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::CancelDistributionRequest>,
    ) -> ServiceResult<blob::CancelDistributionResponse> {
        let id = self.0.find(request.distribution_id)?;
        self.0.node.cancel(id).await.map_err(failed)?;
        Response::ok(blob::CancelDistributionResponse::default())
    }

    async fn redeliver(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::RedeliverRequest>,
    ) -> ServiceResult<blob::RedeliverResponse> {
        let id = self.0.find(request.distribution_id)?;
        self.0.node.redeliver(id).await.map_err(failed)?;
        Response::ok(blob::RedeliverResponse::default())
    }

    async fn read_blob(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ReadBlobRequest>,
    ) -> ServiceResult<ServiceStream<blob::ReadBlobResponse>> {
        let hash = blob_hash("blob", request.blob)?;
        let reader = self.0.node.content().open_blob(&hash).map_err(failed)?;
        if request.offset > reader.size() {
            return Err(invalid("offset", format_args!("it is beyond the end, at {} bytes", reader.size())));
        }
        Ok(Response::new(streams::read(reader, hash, request.offset)))
    }

    async fn check(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::CheckRequest>,
    ) -> ServiceResult<blob::CheckResponse> {
        let report = self.0.node.check().await.map_err(failed)?;
        let hex = |hashes: Vec<BlobHash>| hashes.iter().map(ToString::to_string).collect();
        Response::ok(blob::CheckResponse {
            checked: report.checked,
            damaged: hex(report.damaged),
            missing: hex(report.missing),
            repaired: hex(report.repaired),
            orphans: report.orphans,
            adopted: report.adopted,
            ..Default::default()
        })
    }

    async fn collect_garbage(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::CollectGarbageRequest>,
    ) -> ServiceResult<blob::CollectGarbageResponse> {
        let report = self.0.node.gc().await.map_err(failed)?;
        Response::ok(blob::CollectGarbageResponse {
            dropped: report.dropped,
            freed: report.freed,
            failures: report.failures.iter().map(|(hash, error)| format!("{hash}: {error}")).collect(),
            ..Default::default()
        })
    }

    async fn allow_stock(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::AllowStockRequest>,
    ) -> ServiceResult<blob::AllowStockResponse> {
        let request = request.to_owned_message();
        let allowed = match (request.distribution_id.as_str(), request.blob.as_str()) {
            (id, "") => self.0.node.allow_stock(self.0.find(id)?).await,
            ("", hash) => self.0.node.allow_stock_blob(blob_hash("blob", hash)?).await,
            _ => return Err(invalid("blob", "a distribution is named too")),
        };
        let allowed = allowed.map_err(failed)?;
        let hash = allowed.hash.to_string();
        Response::ok(blob::AllowStockResponse { hash, ticket: allowed.ticket, ..Default::default() })
    }

    async fn forbid_stock(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ForbidStockRequest>,
    ) -> ServiceResult<blob::ForbidStockResponse> {
        let hash = blob_hash("hash", request.hash)?;
        if !self.0.node.content().stock().map_err(failed)?.contains(&hash) {
            return Err(invalid("hash", "nothing was allowed by it; `stock ls` has what was"));
        }
        self.0.node.forbid_stock(hash).await.map_err(failed)?;
        Response::ok(blob::ForbidStockResponse::default())
    }

    async fn list_stock(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::ListStockRequest>,
    ) -> ServiceResult<blob::ListStockResponse> {
        let hashes = self.0.node.content().stock().map_err(failed)?.iter().map(ToString::to_string).collect();
        Response::ok(blob::ListStockResponse { hashes, ..Default::default() })
    }

    async fn retire_node(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::RetireNodeRequest>,
    ) -> ServiceResult<blob::RetireNodeResponse> {
        let id = convert::endpoint_id("endpoint_id", request.endpoint_id)?;
        self.0.node.retire(id, request.reason, None).await.map_err(failed)?;
        Response::ok(blob::RetireNodeResponse::default())
    }

    async fn get_limits(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::GetLimitsRequest>,
    ) -> ServiceResult<blob::LimitsResponse> {
        Response::ok(limits::show(&self.0.node))
    }

    async fn set_limits(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::SetLimitsRequest>,
    ) -> ServiceResult<blob::LimitsResponse> {
        let request = request.to_owned_message();
        // One change after the other, so that none is lost.
        let _turn = self.0.changing_limits.lock().await;
        let wanted = limits::change(self.0.node.limits(), &request)?;
        self.0.node.set_limits(wanted).await.map_err(failed)?;
        Response::ok(limits::show(&self.0.node))
    }

    async fn diagnose(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::DiagnoseRequest>,
    ) -> ServiceResult<blob::DiagnoseResponse> {
        let findings = diagnose::diagnose(&self.0).await;
        Response::ok(blob::DiagnoseResponse { findings, ..Default::default() })
    }

    async fn export_parcel(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ExportParcelRequest>,
    ) -> ServiceResult<ServiceStream<blob::ExportParcelResponse>> {
        let what = parcels::selection(&self.0, request.to_owned_message())?;
        Ok(Response::new(parcels::export(&self.0, what)))
    }

    async fn import_parcel(
        &self,
        ctx: RequestContext,
        requests: InboundStream<blob::ImportParcelRequest>,
    ) -> ServiceResult<blob::ParcelReport> {
        Response::ok(parcels::import(&self.0, silence::explained(&ctx, requests)).await?)
    }
}
