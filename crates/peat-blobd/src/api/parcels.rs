//! Parcels over the API: the library reads and writes them on threads that may block, and the stream feeds or drains it.

use std::collections::BTreeSet;
use std::sync::Arc;

use connectrpc::{ConnectError, InboundStream, ServiceStream};
use n0_future::{StreamExt as _, stream};
use peat_blobapi::blob::{self, oneof::export_parcel_request::What, oneof::export_parcel_response::Part};
use peat_blobcore::{Error, ParcelReport, ParcelSelection};
use tokio::sync::mpsc;

use super::errors::{failed, invalid};
use super::pipe::{Incoming, Outgoing, WAITING};
use super::{Daemon, convert};

/// What is asked for.
pub(super) fn selection(daemon: &Daemon, request: blob::ExportParcelRequest) -> Result<ParcelSelection, ConnectError> {
    match request.what {
        None => Err(invalid("what", "say what the parcel is to hold: everything, distributions or nodes")),
        Some(What::Everything(_)) => Ok(ParcelSelection::Everything),
        Some(What::Distributions(some)) => {
            let ids = some.distribution_ids.iter().map(|id| daemon.find(id)).collect::<Result<BTreeSet<_>, _>>()?;
            Ok(ParcelSelection::Distributions(ids))
        }
        Some(What::Nodes(some)) => {
            let ids = some.endpoint_ids.iter().map(|id| convert::endpoint_id("nodes", id)).collect::<Result<BTreeSet<_>, _>>()?;
            Ok(ParcelSelection::Nodes(ids))
        }
    }
}

/// A parcel, and what is in it at the end.
pub(super) fn export(daemon: &Arc<Daemon>, what: ParcelSelection) -> ServiceStream<blob::ExportParcelResponse> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let daemon = Arc::clone(daemon);
    // Who stops reading drops the receiver, and the writer fails with that.
    let exporting = tokio::spawn(async move { daemon.node.export_parcel(what, Outgoing::new(sender)).await });
    Box::pin(stream::unfold((receiver, Some(exporting)), |(mut receiver, exporting)| async move {
        let exporting = exporting?;
        if let Some(chunk) = receiver.recv().await {
            return Some((Ok(part(Part::Chunk(chunk))), (receiver, Some(exporting))));
        }
        let end = match exporting.await {
            Ok(Ok(report)) => Ok(part(message(&report).into())),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(Error::Stopped)),
        };
        Some((end, (receiver, None)))
    }))
}

fn part(part: Part) -> blob::ExportParcelResponse {
    blob::ExportParcelResponse { part: Some(part), ..Default::default() }
}

/// Takes in a parcel that the caller streams.
pub(super) async fn import(
    daemon: &Arc<Daemon>,
    mut requests: InboundStream<blob::ImportParcelRequest>,
) -> Result<blob::ParcelReport, ConnectError> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let importer = Arc::clone(daemon);
    let importing = tokio::spawn(async move { importer.node.import_parcel(Incoming::new(receiver)).await });
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            () = daemon.stopped() => return Err(failed(Error::Stopped)),
        };
        match request.transpose()? {
            // An import that has ended early says why below.
            Some(request) if sender.send(request.to_owned_message().chunk).await.is_err() => break,
            Some(_) => {}
            None => break,
        }
    }
    drop(sender);
    let report = importing.await.map_err(|_| failed(Error::Stopped))?.map_err(failed)?;
    Ok(message(&report))
}

fn message(report: &ParcelReport) -> blob::ParcelReport {
    blob::ParcelReport {
        exporter: report.exporter.map(|id| id.to_string()).unwrap_or_default(),
        bytes: report.bytes,
        envelopes: report.envelopes,
        new_envelopes: report.new_envelopes,
        distributions: report.distributions,
        blobs: report.blobs,
        blob_bytes: report.blob_bytes,
        known_blobs: report.known_blobs,
        skipped_blobs: report.skipped_blobs,
        cut_blobs: report.cut_blobs,
        withheld_distributions: report.withheld_distributions,
        held_envelopes: report.held_envelopes,
        refused_envelopes: report.refused_envelopes,
        ..Default::default()
    }
}
