//! Parcels of a node: what it exports, and what it makes of one that it imports. Both run off the async threads from their
//! first byte to their last, whoever waits for them.
//!
//! Nothing that an import has taken in waits for its end: envelopes and blobs are passed on and told as they come.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Node, blocking};
use crate::Error;
use crate::content::{Assembly, Batch, Content, ContentError, MAX_BLOCK_BYTES};
use crate::driver::{ParcelRequest, Request, Wanted};
use crate::model::{BlobHash, DistributionId, EndpointId, EnvelopeId, Files, FormationId};
use crate::parcel::{Header, Item, ParcelError, ParcelReader, ParcelWriter};
use crate::reconcile::{Packing, ParcelSelection};
use crate::replica::Replica;

/// Distributions that the driver is asked about at once.
const ASKED_AT_ONCE: usize = 64;
/// Imported blobs, and bytes of them, that become whole in one commit.
const BLOBS_PER_COMMIT: usize = 256;
const BYTES_PER_COMMIT: u64 = 4 * 1024 * 1024;

/// What was written into a parcel, or taken out of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParcelReport {
    /// The node that wrote the parcel, as the parcel says.
    pub exporter: Option<EndpointId>,
    /// The parcel's length in bytes.
    pub bytes: u64,
    /// Envelopes that are in it.
    pub envelopes: u64,
    /// Envelopes that were new here; none at an export.
    pub new_envelopes: u64,
    /// At an import: envelopes that are held back since they are dated more than a day ahead of this node's clock. They count
    /// once it has come that far, if the node runs until then.
    pub held_envelopes: u64,
    /// At an import: envelopes that were refused, for reasons that the log has: not signed by a member or, where it takes one,
    /// the authority; by a revoked node; expired.
    pub refused_envelopes: u64,
    /// Distributions whose blobs are in it, as far as the exporter had them.
    pub distributions: u64,
    /// Blobs that were written, or that came to be whole here.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// At an import: blobs that were here already.
    pub known_blobs: u64,
    /// At an import: blobs that this node does not want (not meant for it, not carried by it, refused by its policy, over its
    /// quota). At an export: blobs that are not here.
    pub skipped_blobs: u64,
    /// Blobs of which the exporter could not read all.
    pub cut_blobs: u64,
    /// At an export: distributions whose blobs were left out since their manifest does not let this node hand them on.
    pub withheld_distributions: u64,
}

impl Node {
    /// Writes envelopes and blobs into a parcel, for [`Node::import_parcel`] at a node that this one is not connected with.
    /// The parcel is not encrypted: SECURITY.md says what it shows to whoever has it. Syncing what was written to disk is
    /// left to the caller. Who stops waiting for the answer does not stop the export.
    ///
    /// # Errors
    /// [`ParcelError::Write`], or what the replica and the store report. What was written until then is no parcel.
    pub async fn export_parcel(&self, what: ParcelSelection, writer: impl Write + Send + 'static) -> Result<ParcelReport, Error> {
        let header = Header { formation: self.identity.formation().id(), exporter: self.id(), made_at: self.clock.now() };
        let (replica, content, driver) = (self.replica.clone(), self.content.clone(), Driver(self.requests.clone()));
        blocking(move || {
            let writer = ParcelWriter::begin(writer, &header)?;
            let report = ParcelReport { exporter: Some(header.exporter), ..ParcelReport::default() };
            Export { replica, content, driver, writer, report, written: HashSet::new() }.run(Arc::new(what))
        })
        .await?
    }

    /// Takes in what a parcel brings: as good as a reconciliation with the node that wrote it, and fetches of the blobs that
    /// this node wants. Every envelope is judged as if a peer had sent it, every byte of a blob is held against the blob's
    /// hash. What is wanted of the blobs is delivered on, after this has returned perhaps. Who stops waiting for the answer
    /// does not stop the import; a shutdown does, after what `reader` has begun to read.
    ///
    /// # Errors
    /// [`ParcelError`] for what is no whole parcel of this formation, or what the replica and the store report, a full disk
    /// among it. What was verified until then stays, and is not taken in twice.
    pub async fn import_parcel(&self, reader: impl Read + Send + 'static) -> Result<ParcelReport, Error> {
        let formations = self.identity.formation().keys().map(|key| key.id()).collect();
        let (replica, content, driver) = (self.replica.clone(), self.content.clone(), Driver(self.requests.clone()));
        blocking(move || {
            let batch = content.batch();
            let import = Import {
                replica,
                content,
                driver,
                batch,
                uncommitted: Vec::new(),
                uncommitted_bytes: 0,
                wanted: HashMap::new(),
                lists: HashMap::new(),
                report: ParcelReport::default(),
            };
            import.run(reader, formations)
        })
        .await?
    }
}

/// The way to the driver, which decides.
struct Driver(mpsc::Sender<Request>);

impl Driver {
    fn tell(&self, request: Request) -> Result<(), Error> {
        self.0.blocking_send(request).map_err(|_| Error::Stopped)
    }

    fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> ParcelRequest) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.tell(Request::Parcel(request(answer)))?;
        answered.blocking_recv().map_err(|_| Error::Stopped)
    }

    /// An error once the node is shut down.
    fn ensure_runs(&self) -> Result<(), Error> {
        if self.0.is_closed() { Err(Error::Stopped) } else { Ok(()) }
    }
}

/// One export.
struct Export<W: Write> {
    replica: Replica,
    content: Content,
    driver: Driver,
    writer: ParcelWriter<W>,
    report: ParcelReport,
    written: HashSet<BlobHash>,
}

impl<W: Write> Export<W> {
    fn run(mut self, selection: Arc<ParcelSelection>) -> Result<ParcelReport, Error> {
        self.driver.ask(|answer| ParcelRequest::Introduce { answer })?;
        let registers = self.replica.registers()?;
        self.envelopes(registers)?;
        let mut whole = Vec::new();
        for ids in self.replica.distributions().chunks(ASKED_AT_ONCE) {
            let (ids, selection) = (ids.to_vec(), Arc::clone(&selection));
            for (id, packing) in self.driver.ask(|answer| ParcelRequest::Pack { ids, selection, answer })? {
                if packing != Packing::Nothing {
                    let envelopes = self.replica.envelopes_in_order(&id)?;
                    self.envelopes(envelopes)?;
                }
                match packing {
                    Packing::Whole => whole.push(id),
                    Packing::Withheld => self.report.withheld_distributions += 1,
                    Packing::Nothing | Packing::Document => {}
                }
            }
        }
        self.report.distributions = whole.len() as u64;
        self.writer.contents(&whole)?;
        // Lists first: by them the other side knows which of the other blobs it wants.
        for id in &whole {
            if let Some(distribution) = self.replica.distribution(id)?
                && let Files::List { blob, .. } = &distribution.manifest.files
            {
                self.blob(blob)?;
            }
        }
        for id in whole {
            let blobs = self.driver.ask(|answer| ParcelRequest::Blobs { id, answer })?;
            blobs.iter().try_for_each(|blob| self.blob(blob))?;
        }
        self.report.bytes = self.writer.finish()?;
        Ok(self.report)
    }

    fn envelopes(&mut self, ids: Vec<EnvelopeId>) -> Result<(), Error> {
        self.driver.ensure_runs()?;
        for id in ids {
            // One that is gone was replaced meanwhile, or has expired.
            if let Some(envelope) = self.replica.envelope(&id)? {
                self.writer.envelope(&envelope)?;
                self.report.envelopes += 1;
            }
        }
        Ok(())
    }

    fn blob(&mut self, hash: &BlobHash) -> Result<(), Error> {
        if !self.written.insert(*hash) {
            return Ok(());
        }
        let reader = match self.content.open_blob(hash) {
            Ok(reader) => reader,
            Err(ContentError::Absent(_) | ContentError::Damaged(_)) => {
                self.report.skipped_blobs += 1;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let size = reader.size();
        self.writer.blob(*hash, size)?;
        let mut start = 0;
        while start < size {
            self.driver.ensure_runs()?;
            let end = start.saturating_add(MAX_BLOCK_BYTES).min(size);
            match self.content.encode_block(hash, start..end) {
                Ok(encoded) => self.writer.block(&encoded)?,
                Err(ContentError::Absent(_) | ContentError::Damaged(_)) => {
                    self.report.cut_blobs += 1;
                    return Ok(self.writer.cut()?);
                }
                Err(error) => return Err(error.into()),
            }
            start = end;
        }
        self.report.blobs += 1;
        self.report.blob_bytes += size;
        Ok(())
    }
}

/// One import.
struct Import {
    replica: Replica,
    content: Content,
    driver: Driver,
    batch: Batch,
    /// Blobs in the batch.
    uncommitted: Vec<BlobHash>,
    uncommitted_bytes: u64,
    /// Blobs to take in, with their sizes as a manifest that was signed has them.
    wanted: HashMap<BlobHash, u64>,
    /// Which distributions wait for which list of files.
    lists: HashMap<BlobHash, HashSet<DistributionId>>,
    report: ParcelReport,
}

impl Import {
    fn run(mut self, source: impl Read, formations: Vec<FormationId>) -> Result<ParcelReport, Error> {
        let (header, mut reader) = ParcelReader::open(source)?;
        if !formations.contains(&header.formation) {
            return Err(ParcelError::OtherFormation { theirs: header.formation }.into());
        }
        self.report.exporter = Some(header.exporter);
        self.driver.ask(|answer| ParcelRequest::Introduce { answer })?;
        let taken = self.take_all(&mut reader);
        // What came before an error is kept all the same.
        let committed = self.commit();
        taken?;
        committed?;
        // Who is no member that is known here has written nothing that could count as a reconciliation.
        if self.replica.credential(&header.exporter).is_some() {
            self.driver.tell(Request::Parcel(ParcelRequest::Ended(header.exporter)))?;
        }
        self.report.bytes = reader.bytes();
        Ok(self.report)
    }

    fn take_all(&mut self, reader: &mut ParcelReader<impl Read>) -> Result<(), Error> {
        let mut assembly: Option<Assembly> = None;
        while let Some(item) = reader.next_item()? {
            self.driver.ensure_runs()?;
            match item {
                Item::Envelopes(envelopes) => {
                    self.report.envelopes += envelopes.len() as u64;
                    let accepted = self.replica.accept(None, &envelopes)?;
                    self.report.new_envelopes += accepted.push.len() as u64;
                    self.report.held_envelopes += accepted.held.len() as u64;
                    self.report.refused_envelopes += accepted.refused;
                    self.driver.tell(Request::Wrote(accepted))?;
                }
                Item::Contents(distributions) => {
                    self.report.distributions += distributions.len() as u64;
                    self.offer(&distributions)?;
                }
                Item::Blob { hash, size } => assembly = self.begin(reader, hash, size)?,
                Item::Block { range, encoded } => {
                    if let Some(assembly) = &assembly {
                        assembly.write_block(range, &encoded).map_err(|error| at_fault(reader, error))?;
                        assembly.keep_up()?;
                    }
                }
                Item::Whole => {
                    if let Some(assembly) = assembly.take() {
                        self.end(&assembly).map_err(|error| at_fault(reader, error))?;
                    }
                }
                Item::Cut => {
                    self.report.cut_blobs += 1;
                    assembly = None;
                }
            }
        }
        Ok(())
    }

    /// Asks which blobs of distributions are wanted.
    fn offer(&mut self, distributions: &[DistributionId]) -> Result<(), Error> {
        for ids in distributions.chunks(ASKED_AT_ONCE) {
            let ids = ids.to_vec();
            let Wanted { blobs, lists } = self.driver.ask(|answer| ParcelRequest::Offer { ids, answer })?;
            self.wanted.extend(blobs);
            for (list, id) in lists {
                self.lists.entry(list).or_default().insert(id);
            }
        }
        Ok(())
    }

    /// Begins a blob, if it is one to take in.
    fn begin(&mut self, reader: &ParcelReader<impl Read>, hash: BlobHash, size: u64) -> Result<Option<Assembly>, Error> {
        let Some(true_size) = self.wanted.get(&hash) else {
            let known = self.content.holds(&hash)?;
            *if known { &mut self.report.known_blobs } else { &mut self.report.skipped_blobs } += 1;
            return Ok(None);
        };
        if *true_size != size {
            return Err(reader.damaged(&format!("blob {hash} has another size than its sender signed")).into());
        }
        Ok(Some(self.content.assemble(&hash, size)?))
    }

    /// Makes a blob whole, at once or together with others.
    fn end(&mut self, assembly: &Assembly) -> Result<(), Error> {
        self.batch.add_assembly(assembly)?;
        let hash = assembly.hash();
        self.wanted.remove(&hash);
        self.uncommitted.push(hash);
        self.uncommitted_bytes += assembly.size();
        self.report.blobs += 1;
        self.report.blob_bytes += assembly.size();
        let list = self.lists.remove(&hash);
        if list.is_some() || self.uncommitted.len() >= BLOBS_PER_COMMIT || self.uncommitted_bytes >= BYTES_PER_COMMIT {
            self.commit()?;
        }
        list.map_or(Ok(()), |distributions| self.offer(&Vec::from_iter(distributions)))
    }

    fn commit(&mut self) -> Result<(), Error> {
        std::mem::replace(&mut self.batch, self.content.batch()).commit()?;
        self.uncommitted_bytes = 0;
        let arrived = std::mem::take(&mut self.uncommitted);
        if arrived.is_empty() { Ok(()) } else { self.driver.tell(Request::Parcel(ParcelRequest::Arrived(arrived))) }
    }
}

/// Wrong bytes are the parcel's fault; everything else is this node's.
fn at_fault(reader: &ParcelReader<impl Read>, error: impl Into<Error>) -> Error {
    match error.into() {
        Error::Content(ContentError::Corrupt(hash)) => reader.damaged(&format!("a block of blob {hash} is wrong")).into(),
        other => other,
    }
}
