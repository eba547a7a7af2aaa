//! Calls that tell how far they are: of each part of an image the latest, and the report at the end. Whoever reads slowly makes
//! nobody wait, and misses steps, never how a part ended.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use connectrpc::{ConnectError, ServiceStream};
use n0_future::stream;
use peat_blobapi::blob::{ImagePartState, ImageProgress};
use peat_blobcore::oci::Descriptor;
use peat_blobcore::registry::PartStep;
use peat_blobcore::registry::archive::Taken;
use tokio::sync::Notify;

/// Files of archives up to this size are not told of.
const SMALL_BYTES: u64 = 16 * 1024;

/// What has changed of the parts since it was told.
#[derive(Default)]
pub(super) struct Told {
    changed: Mutex<BTreeMap<String, ImageProgress>>,
    notify: Notify,
}

impl Told {
    /// What has become of a part.
    pub(super) fn part(&self, part: &Descriptor, step: PartStep) {
        let progress = ImageProgress {
            digest: part.digest.to_string(),
            media_type: part.media_type.clone(),
            size: part.size,
            ..Default::default()
        };
        self.note(progress, step);
    }

    /// What has become of a file of an archive. Small ones come faster than anybody looks.
    pub(super) fn file(&self, file: &Taken<'_>) {
        if file.size > SMALL_BYTES {
            let digest = file.digest.map(|digest| digest.to_string()).unwrap_or_default();
            self.note(ImageProgress { digest, name: file.name.to_owned(), size: file.size, ..Default::default() }, file.step);
        }
    }

    fn note(&self, mut progress: ImageProgress, step: PartStep) {
        let (bytes, state) = match step {
            PartStep::Moved(bytes) => (bytes, ImagePartState::IMAGE_PART_STATE_UNSPECIFIED),
            PartStep::Done => (progress.size, ImagePartState::IMAGE_PART_STATE_DONE),
            PartStep::Mounted => (progress.size, ImagePartState::IMAGE_PART_STATE_MOUNTED),
            PartStep::Present => (progress.size, ImagePartState::IMAGE_PART_STATE_PRESENT),
        };
        (progress.bytes, progress.state) = (bytes, state.into());
        let key = format!("{} {}", progress.digest, progress.name);
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(key, progress);
        self.notify.notify_one();
    }

    fn take(&self) -> VecDeque<ImageProgress> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }
}

/// What is under way.
pub(super) type Work<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

struct Following<T> {
    work: Work<T>,
    ended: Option<Result<T, ConnectError>>,
    told: std::sync::Arc<Told>,
    waiting: VecDeque<ImageProgress>,
}

/// Tells of some work until it has ended, and then what came of it.
pub(super) fn follow<T: Send + 'static, M: Send + 'static>(
    told: std::sync::Arc<Told>,
    work: Work<T>,
    progress: fn(ImageProgress) -> M,
    report: fn(T) -> M,
) -> ServiceStream<M> {
    let following = Following { work, ended: None, told, waiting: VecDeque::new() };
    Box::pin(stream::unfold(Some(following), move |following| async move {
        let mut it = following?;
        loop {
            if let Some(next) = it.waiting.pop_front() {
                return Some((Ok(progress(next)), Some(it)));
            }
            if let Some(ended) = it.ended.take() {
                return Some((ended.map(report), None));
            }
            tokio::select! {
                biased;
                () = it.told.notify.notified() => {}
                ended = &mut it.work => it.ended = Some(ended),
            }
            it.waiting = it.told.take();
        }
    }))
}
