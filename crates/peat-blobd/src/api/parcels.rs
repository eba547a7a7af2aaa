//! Parcels over the API: the library reads and writes them on threads that may block, and the stream feeds or drains it.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Arc;

use connectrpc::{ConnectError, InboundStream, ServiceStream};
use n0_future::{StreamExt as _, stream};
use peat_blobapi::blob::{self, oneof::export_parcel_request::What, oneof::export_parcel_response::Part};
use peat_blobcore::{Error, ParcelReport, ParcelSelection};
use tokio::sync::mpsc;

use super::errors::{failed, invalid};
use super::{Daemon, convert};

/// Bytes of one message of a parcel.
const CHUNK: usize = 256 * 1024;
/// Messages between a stream and the thread that reads or writes.
const WAITING: usize = 4;

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
    let exporting = tokio::spawn(async move {
        let writer = io::BufWriter::with_capacity(CHUNK, Outgoing(sender));
        daemon.node.export_parcel(what, writer).await
    });
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
    let importing =
        tokio::spawn(async move { importer.node.import_parcel(Incoming { receiver, chunk: io::Cursor::default() }).await });
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

/// The way out of the thread that exports.
struct Outgoing(mpsc::Sender<Vec<u8>>);

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        self.0.blocking_send(chunk.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The way into the thread that imports; its end is the end of the stream.
struct Incoming {
    receiver: mpsc::Receiver<Vec<u8>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl Read for Incoming {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(bytes)?;
            if read > 0 || bytes.is_empty() {
                return Ok(read);
            }
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = io::Cursor::new(chunk),
                None => return Ok(0),
            }
        }
    }
}
