//! What the driver does for who writes or reads a parcel: says what reconcile decides, and hears what came.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Driver;
use crate::model::{BlobHash, DistributionId, EndpointId, Files};
use crate::network::NetworkEvent;
use crate::reconcile::{self, Event, Packing, ParcelSelection, View as _};

/// What is asked on behalf of a parcel. Each concerns a few distributions: the loop has more to do.
pub(crate) enum ParcelRequest {
    /// A parcel is about to be written or read: this node's record is to be there, without which nothing that it says is
    /// believed, and nothing but its id makes it a target.
    Introduce { answer: oneshot::Sender<()> },
    /// What of these distributions goes into a parcel.
    Pack { ids: Vec<DistributionId>, selection: Arc<ParcelSelection>, answer: oneshot::Sender<Vec<(DistributionId, Packing)>> },
    /// Which blobs a distribution consists of, its list first.
    Blobs { id: DistributionId, answer: oneshot::Sender<Vec<BlobHash>> },
    /// Blobs of these distributions are there to be taken in: which of them this node wants and does not hold.
    Offer { ids: Vec<DistributionId>, answer: oneshot::Sender<Wanted> },
    /// Blobs were taken in.
    Arrived(Vec<BlobHash>),
    /// All of a parcel was taken in, which is as good as a reconciliation with the member that wrote it.
    Ended(EndpointId),
}

/// Blobs that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Each with its size in bytes.
    pub(crate) blobs: Vec<(BlobHash, u64)>,
    /// Those of them that are lists of files, and whose. What is wanted of a distribution is known once its list is here.
    pub(crate) lists: Vec<(BlobHash, DistributionId)>,
}

impl Driver {
    pub(super) async fn serve_parcel(&mut self, request: ParcelRequest) {
        // Whoever asked may have gone.
        match request {
            ParcelRequest::Introduce { answer } => {
                self.publish().await;
                let _ = answer.send(());
            }
            ParcelRequest::Pack { ids, selection, answer } => {
                let now = self.clock.now();
                let found = ids.into_iter().filter_map(|id| Some((id, self.world.distribution(&id)?)));
                let packed = found.map(|(id, it)| (id, reconcile::packing(now, &self.world, &it, &selection)));
                let _ = answer.send(packed.collect());
            }
            ParcelRequest::Blobs { id, answer } => {
                let blobs = self.world.distribution(&id).map(|distribution| self.world.blobs(&distribution));
                let _ = answer.send(blobs.unwrap_or_default());
            }
            ParcelRequest::Offer { ids, answer } => {
                let mut wanted = Wanted::default();
                for id in ids {
                    self.decide(Event::Offered(id)).await;
                    self.add_wanted(id, &mut wanted);
                }
                let _ = answer.send(wanted);
            }
            ParcelRequest::Arrived(blobs) => {
                for blob in blobs {
                    self.pin_listed(&blob);
                    self.decide(Event::BlobHeld(blob)).await;
                }
            }
            ParcelRequest::Ended(exporter) => self.hear(NetworkEvent::Reconciled(exporter)).await,
        }
    }

    /// What is pinned is wanted: reconcile pins what there is a reason and room for.
    fn add_wanted(&self, id: DistributionId, wanted: &mut Wanted) {
        if self.world.pinned(&id).is_none() {
            return;
        }
        let Some(distribution) = self.world.distribution(&id) else { return };
        match (&distribution.manifest.files, self.world.files(&distribution)) {
            (Files::List { blob, size, .. }, None) => {
                wanted.blobs.push((*blob, *size));
                wanted.lists.push((*blob, id));
            }
            (_, Some(Ok(files))) if !distribution.manifest.removes => {
                let missing = files.iter().filter(|file| !self.world.holds(&file.blob));
                wanted.blobs.extend(missing.map(|file| (file.blob, file.size)));
            }
            _ => {}
        }
    }
}
