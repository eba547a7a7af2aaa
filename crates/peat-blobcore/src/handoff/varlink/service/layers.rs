//! Layers out and in: what is given is held until its lifetimes are closed, what was put until an image names it; both for so long and so
//! many.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::PollFlags;

use super::calls::{Session, digest, internal, of_layer, refused};
use super::{Service, ServiceOptions};
use crate::content::Sharing;
use crate::handoff::varlink::VarlinkError;
use crate::handoff::varlink::message::{Fault, MAX_FRAME_DESCRIPTORS, encode_reply};
use crate::handoff::varlink::wait::{Pipe, wait};
use crate::handoff::varlink::wire::{self, FoundLayer, PutLayerReport, Refusal, Slots};
use crate::handoff::{Directories, HandoffError, SplitLayer, TakenLayer};
use crate::oci::Digest;

/// With the pipe and lifetimes, what goes with one call.
const MAX_SLOTS: u32 = 250;

/// What we call a layer: what it is called already.
pub(super) fn verity(diff_id: &Digest) -> String {
    diff_id.hex()
}

/// How many layers are given out.
#[derive(Debug)]
pub(super) struct HandedOut(Arc<AtomicUsize>, usize);

/// One of them.
struct HandOut(Arc<AtomicUsize>);

impl HandedOut {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::default(), most)
    }

    fn one(&self) -> Option<HandOut> {
        let more = |count| (count < self.1).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(HandOut(Arc::clone(&self.0)))
    }
}

impl Drop for HandOut {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Layers that were put, or asked for and found: in use, so that they stay in the cache.
#[derive(Debug, Default)]
pub(super) struct Put(BTreeMap<Digest, (Arc<SplitLayer>, Instant)>);

impl Put {
    /// Forgets those that were waited for long enough.
    pub(super) fn expire(&mut self, options: &ServiceOptions) {
        self.0.retain(|_, (_, since)| since.elapsed() < options.put_lifetime);
    }

    fn insert(&mut self, layer: Arc<SplitLayer>, options: &ServiceOptions) {
        self.expire(options);
        while self.0.len() >= options.put {
            let Some(oldest) = self.0.iter().min_by_key(|(_, (_, since))| *since).map(|(digest, _)| *digest) else { break };
            self.0.remove(&oldest);
        }
        self.0.insert(*layer.diff_id(), (layer, Instant::now()));
    }

    pub(super) fn forget(&mut self, diff_id: &Digest) {
        self.0.remove(diff_id);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A layer, to be given out.
pub(super) struct Outgoing {
    slots: u32,
    frames: Vec<Vec<Given>>,
    directory: OwnedFd,
    dummy: OwnedFd,
    stream: OwnedFd,
    lifetime: PipeWriter,
}

/// What stands at a place of a reply.
#[derive(Debug, Clone, Copy)]
enum Given {
    Stream,
    Directory,
    Dummy,
    Lifetime,
}

impl Outgoing {
    pub(super) fn send(self, send: impl Fn(&[u8], &[BorrowedFd<'_>]) -> Result<(), VarlinkError>) -> Result<(), VarlinkError> {
        let last = self.frames.len().saturating_sub(1);
        for (at, frame) in self.frames.iter().enumerate() {
            let descriptors: Vec<_> = frame.iter().map(|given| self.descriptor(*given)).collect();
            send(&encode_reply(&Slots { dir_count: self.slots }, at < last)?, &descriptors)?;
        }
        Ok(())
    }

    fn descriptor(&self, given: Given) -> BorrowedFd<'_> {
        match given {
            Given::Stream => self.stream.as_fd(),
            Given::Directory => self.directory.as_fd(),
            Given::Dummy => self.dummy.as_fd(),
            Given::Lifetime => self.lifetime.as_fd(),
        }
    }
}

impl Session<'_> {
    pub(super) fn has_layer(&mut self, asked: &wire::HasLayer) -> Result<FoundLayer, Fault> {
        self.is_open(asked.handle)?;
        let diff_id = digest(&asked.diff_id)?;
        let present = self.service.is_in_image(&diff_id)? || self.service.kept(&diff_id)?.is_some();
        Ok(FoundLayer { present, layer_verity: present.then(|| verity(&diff_id)) })
    }

    pub(super) fn get_layer(&mut self, asked: wire::GetLayer, more: bool) -> Result<Outgoing, Fault> {
        self.is_open(asked.handle)?;
        let Some(diff_id) = asked.params.diff_id.filter(|_| asked.params.storage.is_none()) else {
            return Err(refused("layers are asked for by diff_id: this service has no containers-storage"));
        };
        let diff_id = digest(&diff_id)?;
        let service = self.service;
        let options = &service.0.options;
        let hand_out = service.0.handed_out.one();
        let hand_out = hand_out.ok_or_else(|| internal(format!("{} layers are given out already", options.handed_out)))?;
        let slots = 1 + random(options.slots.clamp(1, MAX_SLOTS))?;
        let real = random(slots)?;
        let lifetimes = 1 + random(3)?;
        let given = (0..slots).map(|slot| if slot == real { Given::Directory } else { Given::Dummy });
        let lifetime = (0..lifetimes).map(|_| Given::Lifetime);
        let all: Vec<Given> = std::iter::once(Given::Stream).chain(given).chain(lifetime).collect();
        let frames = frames(all, more)?;
        let layer = service.layer(&diff_id)?;
        let opened = || -> io::Result<_> {
            let (stream, writer) = io::pipe()?;
            let (ended, lifetime) = io::pipe()?;
            let directory = layer.directory().try_clone_to_owned()?;
            let dummy = File::open("/dev/null")?.into();
            Ok((Outgoing { slots, frames, directory, dummy, stream: stream.into(), lifetime }, writer, ended))
        };
        let (outgoing, writer, ended) = opened().map_err(internal)?;
        let giver = service.clone();
        service.spawn("layer out", move || give(&giver, &layer, real, writer, ended, hand_out)).map_err(internal)?;
        Ok(outgoing)
    }

    pub(super) fn put_layer(&mut self, asked: wire::PutLayer, mut descriptors: Vec<OwnedFd>) -> Result<PutLayerReport, Fault> {
        self.is_open(asked.handle)?;
        let diff_id = digest(&asked.diff_id)?;
        if descriptors.len() < 2 {
            return Err(refused("a layer is a pipe and directories: at least two descriptors"));
        }
        let directories = Directories::new(descriptors.split_off(1));
        let stream = descriptors.pop().ok_or_else(|| refused("a layer without a pipe"))?;
        let (patience, stop) = (self.service.0.options.patience, Arc::clone(&self.service.0.stop));
        let stream = Pipe::new(stream, patience, Some(stop)).map_err(internal)?;
        let mut stream = stream.ok_or_else(|| refused("the first descriptor is no pipe"))?;
        let sharing = if asked.zerocopy { Sharing::Only } else { Sharing::WherePossible };
        let service = self.service;
        service.put().expire(&service.0.options);
        let report = |already_present, reflinked, copied, known| PutLayerReport {
            layer_verity: verity(&diff_id),
            already_present,
            objects_reflinked: reflinked,
            objects_hardlinked: 0,
            objects_copied: copied,
            objects_already_present: known,
        };
        if service.is_in_image(&diff_id)? {
            // Whoever writes it is not left standing.
            let limit = service.0.cache.options().layer_limit;
            io::copy(&mut stream.by_ref().take(limit), &mut io::sink()).map_err(internal)?;
            return Ok(report(true, 0, 0, 0));
        }
        let taken = service.0.cache.take(&diff_id, &mut stream, &directories, sharing).map_err(of_layer(&diff_id))?;
        let TakenLayer { layer, was_there, reflinked, copied, known } = taken;
        service.put().insert(Arc::new(layer), &service.0.options);
        Ok(report(was_there, reflinked, copied, known))
    }
}

impl Service {
    pub(super) fn put(&self) -> MutexGuard<'_, Put> {
        self.0.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_in_image(&self, diff_id: &Digest) -> Result<bool, Fault> {
        let mut index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(!index.find(&self.0.registry, diff_id).map_err(internal)?.is_empty())
    }

    /// A layer that was put, or is in the cache; in use from here on.
    pub(super) fn kept(&self, diff_id: &Digest) -> Result<Option<Arc<SplitLayer>>, Fault> {
        let put = self.put().0.get(diff_id).map(|(layer, _)| Arc::clone(layer));
        let found = match put {
            Some(layer) => Some(layer),
            None => self.0.cache.get(diff_id).map_err(of_layer(diff_id))?.map(Arc::new),
        };
        if let Some(layer) = &found {
            self.put().insert(Arc::clone(layer), &self.0.options);
        }
        Ok(found)
    }

    /// A layer of an image that is here, or one that was put.
    pub(super) fn layer(&self, diff_id: &Digest) -> Result<Arc<SplitLayer>, Fault> {
        self.put().expire(&self.0.options);
        let places = {
            let mut index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
            index.find(&self.0.registry, diff_id).map_err(internal)?
        };
        let mut failed = None;
        for place in places {
            match self.0.registry.split_layer(&self.0.cache, &place.repository, &place.layer) {
                Ok(split) => return Ok(Arc::new(split)),
                Err(error) => {
                    // Its image says what is not so, or it is in a form that is not known: another may have it right.
                    if matches!(error, HandoffError::DiffersFromDiffId { .. } | HandoffError::Archive(_)) {
                        self.0.index.lock().unwrap_or_else(PoisonError::into_inner).distrust(diff_id, &place);
                    }
                    failed = Some(error);
                }
            }
        }
        match (self.kept(diff_id)?, failed) {
            (Some(layer), _) => Ok(layer),
            (None, Some(error)) => Err(of_layer(diff_id)(error)),
            (None, None) => Err(Refusal::NoSuchLayer { diff_id: diff_id.to_string() }.into()),
        }
    }
}

/// Writes a layer's stream, and holds the layer until nobody has its lifetimes.
fn give(service: &Service, layer: &SplitLayer, slot: u32, writer: PipeWriter, ended: PipeReader, hand_out: HandOut) {
    let (options, stop) = (&service.0.options, &service.0.stop);
    let write = || -> Result<(), VarlinkError> {
        let pipe = Pipe::new(writer.into(), options.reading, Some(Arc::clone(stop))).map_err(VarlinkError::io("make a pipe"))?;
        let mut pipe = io::BufWriter::with_capacity(32 * 1024, pipe.ok_or(VarlinkError::Closed)?);
        if let Err(error) = layer.write_stream(slot, &mut pipe) {
            // What waits to be written would be waited for once more.
            drop(pipe.into_parts());
            return Err(error.into());
        }
        let pipe = pipe.into_inner().map_err(|error| VarlinkError::io("write a layer's stream")(error.into_error()))?;
        drop(pipe);
        wait(ended.as_fd(), PollFlags::IN, Some(options.lifetime), Some(stop))
    };
    if let Err(error) = write() {
        tracing::debug!(layer = %layer.diff_id(), %error, "a layer is given out no more");
    }
    drop(hand_out);
}

/// What goes with which reply.
fn frames(all: Vec<Given>, more: bool) -> Result<Vec<Vec<Given>>, Fault> {
    if !more {
        if all.len() > MAX_FRAME_DESCRIPTORS {
            let (fd_count, max_per_frame) = (all.len() as u64, MAX_FRAME_DESCRIPTORS as u64);
            return Err(Refusal::FdLimitExceeded { fd_count, max_per_frame }.into());
        }
        return Ok(vec![all]);
    }
    // In several, so that nobody comes to count on one.
    let most = u32::try_from(all.len().min(MAX_FRAME_DESCRIPTORS)).unwrap_or(u32::MAX);
    let size = 1 + random(most)?;
    Ok(all.chunks(size as usize).map(<[Given]>::to_vec).collect())
}

/// A number below `below`.
fn random(below: u32) -> Result<u32, Fault> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(internal)?;
    Ok(u32::from_le_bytes(bytes) % below.max(1))
}
