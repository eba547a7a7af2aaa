//! Calls that tell how far they are: of each part of an image the latest, and the report at the end. Whoever reads slowly makes
//! nobody wait, and misses steps, never how a part ended.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use connectrpc::{ConnectError, ServiceStream};
use n0_future::stream;
use peat_blobapi::blob::{ImagePartState, ImageProgress};
use peat_blobcore::oci::{Descriptor, Digest};
use peat_blobcore::registry::remote::PushStep;
use tokio::sync::Notify;

/// What has changed of the parts since it was told.
#[derive(Default)]
pub(super) struct Told {
    changed: Mutex<BTreeMap<Digest, ImageProgress>>,
    notify: Notify,
}

impl Told {
    /// A part has come so far.
    pub(super) fn note(&self, part: &Descriptor, bytes: u64, state: ImagePartState) {
        let progress = ImageProgress {
            digest: part.digest.to_string(),
            media_type: part.media_type.clone(),
            bytes,
            size: part.size,
            state: state.into(),
            ..Default::default()
        };
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(part.digest, progress);
        self.notify.notify_one();
    }

    /// The same in the words of a push.
    pub(super) fn pushed(&self, part: &Descriptor, step: PushStep) {
        match step {
            PushStep::Sent(bytes) => self.note(part, bytes, ImagePartState::IMAGE_PART_STATE_UNSPECIFIED),
            PushStep::Done => self.note(part, part.size, ImagePartState::IMAGE_PART_STATE_DONE),
            PushStep::Mounted => self.note(part, part.size, ImagePartState::IMAGE_PART_STATE_MOUNTED),
            PushStep::Present => self.note(part, part.size, ImagePartState::IMAGE_PART_STATE_PRESENT),
        }
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
