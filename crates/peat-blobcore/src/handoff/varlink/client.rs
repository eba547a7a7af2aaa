//! The client of a service of split layers: a node's, or one of composefs itself.
//!
//! Calls block until they are answered. What a service sends is hostile: sizes, counts and kinds are checked here, a layer's bytes by
//! [`SplitReader`] against its digest. Must never keep a descriptor that nobody asked for.

use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::link::{Link, Received, Room};
use super::message::{MAX_CALL_DESCRIPTORS, MAX_FRAME_DESCRIPTORS, MAX_MESSAGE_BYTES, MessageError, encode_call, reply};
use super::wait::Pipe;
use super::wire::{
    self, CheckedImages, FinalizedImage, ImageEntry, InspectedImage, LayerRef, OpenedRepository, PutLayerReport, ServiceInfo,
};
use super::{OCI, REPOSITORY, SERVICE, VarlinkError};
use crate::handoff::{Directories, SplitLayer, SplitReader};
use crate::oci::Digest;

/// How long a client waits.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// For the service to go on in the midst of a message or of a layer's stream.
    pub patience: Duration,
    /// For an answer: a layer may have to be made first, or taken in.
    pub answer: Duration,
}

impl Default for ClientOptions {
    /// A minute, and an hour.
    fn default() -> Self {
        Self { patience: Duration::from_secs(60), answer: Duration::from_secs(3600) }
    }
}

/// Which repository of a service is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhichRepository {
    /// The only one: a node's registry.
    Only,
    /// The one in this directory.
    Path(String),
    /// The user's.
    User,
    /// The system's.
    System,
}

/// A connection to a service. Calls go one after the other.
#[derive(Debug)]
pub struct Client {
    link: Link,
    options: ClientOptions,
}

impl Client {
    /// Connects to the socket of a service.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn connect(path: &Path, options: ClientOptions) -> Result<Self, VarlinkError> {
        let socket = UnixStream::connect(path).map_err(VarlinkError::io(format!("connect to {}", path.display())))?;
        Ok(Self::over(socket, options))
    }

    /// Speaks over a socket that is connected.
    #[must_use]
    pub fn over(socket: UnixStream, options: ClientOptions) -> Self {
        // There is one message at a time.
        let room = Room::new(2 * MAX_MESSAGE_BYTES);
        Self { link: Link::new(Arc::new(socket), options.patience, None, room), options }
    }

    /// What the service says of itself.
    ///
    /// # Errors
    /// [`VarlinkError`], as of every call.
    pub fn service(&mut self) -> Result<ServiceInfo, VarlinkError> {
        self.call(SERVICE, "GetInfo", &wire::Nothing {})
    }

    /// The description of an interface, in the language of varlink.
    ///
    /// # Errors
    /// [`VarlinkError`], as of every call.
    pub fn description(&mut self, interface: &str) -> Result<String, VarlinkError> {
        let asked = wire::Interface { interface: interface.to_owned() };
        Ok(self.call::<_, wire::Description>(SERVICE, "GetInterfaceDescription", &asked)?.description)
    }

    /// What the service of images can do; [`wire::FEATURE`] among it where it speaks of layers.
    ///
    /// # Errors
    /// [`VarlinkError`], as of every call.
    pub fn features(&mut self) -> Result<Vec<String>, VarlinkError> {
        Ok(self.call::<_, wire::Features>(OCI, "GetInfo", &wire::Nothing {})?.features)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// `RepoNotFound` and `InvalidSpec` where the service has no such.
    pub fn open_repository(&mut self, which: &WhichRepository) -> Result<OpenedRepository, VarlinkError> {
        let asked = match which {
            WhichRepository::Only => wire::OpenRepository::default(),
            WhichRepository::Path(path) => wire::OpenRepository { path: Some(path.clone()), ..Default::default() },
            WhichRepository::User => wire::OpenRepository { user: Some(true), ..Default::default() },
            WhichRepository::System => wire::OpenRepository { system: Some(true), ..Default::default() },
        };
        self.call(REPOSITORY, "OpenRepository", &asked)
    }

    /// Closes a repository. That the connection ends does so too.
    ///
    /// # Errors
    /// `InvalidHandle`.
    pub fn close_repository(&mut self, handle: u64) -> Result<(), VarlinkError> {
        self.call::<_, wire::Nothing>(REPOSITORY, "CloseRepository", &wire::Handle { handle }).map(drop)
    }

    /// Closes a repository, as the last call of a connection: nobody waits for the answer.
    pub(in crate::handoff) fn leave_repository(&mut self, handle: u64) {
        // A service that has gone has closed it.
        let _ = self.send("CloseRepository", REPOSITORY, false, &wire::Handle { handle }, &[]);
    }

    /// The images whose names have `filter` in them; without one all that have a name.
    ///
    /// # Errors
    /// [`VarlinkError`], as of every call.
    pub fn list_images(&mut self, handle: u64, filter: Option<&str>) -> Result<Vec<ImageEntry>, VarlinkError> {
        let asked = wire::ListImages { handle, filter: filter.map(str::to_owned) };
        Ok(self.call::<_, wire::Images>(OCI, "ListImages", &asked)?.images)
    }

    /// Manifest and configuration of an image, by its name or by `@` and the digest of its manifest. Both are what the service says:
    /// hold them against digests where there are any.
    ///
    /// # Errors
    /// `NoSuchImage`.
    pub fn inspect(&mut self, handle: u64, image: &str) -> Result<InspectedImage, VarlinkError> {
        self.call(OCI, "Inspect", &wire::Image { handle, image: image.to_owned() })
    }

    /// Has images checked, one or all.
    ///
    /// # Errors
    /// [`VarlinkError`], as of every call. That something is damaged is none.
    pub fn check(&mut self, handle: u64, image: Option<&str>) -> Result<CheckedImages, VarlinkError> {
        self.call(OCI, "Check", &wire::Check { handle, image: image.map(str::to_owned) })
    }

    /// Gives an image a name.
    ///
    /// # Errors
    /// `NoSuchImage`.
    pub fn tag(&mut self, handle: u64, manifest_digest: &Digest, name: &str) -> Result<(), VarlinkError> {
        let asked = wire::Tag { handle, manifest_digest: manifest_digest.to_string(), name: name.to_owned() };
        self.call::<_, wire::Nothing>(OCI, "Tag", &asked).map(drop)
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// `NoSuchImage`.
    pub fn untag(&mut self, handle: u64, name: &str) -> Result<(), VarlinkError> {
        self.call::<_, wire::Nothing>(OCI, "Untag", &wire::Untag { handle, name: name.to_owned() }).map(drop)
    }

    /// What the service calls a layer that it has; `None` if it has not.
    ///
    /// # Errors
    /// [`VarlinkError`], as of every call.
    pub fn has_layer(&mut self, handle: u64, diff_id: &Digest) -> Result<Option<String>, VarlinkError> {
        let found: wire::FoundLayer = self.call(OCI, "HasLayer", &wire::HasLayer { handle, diff_id: diff_id.to_string() })?;
        match (found.present, found.layer_verity) {
            (false, _) => Ok(None),
            (true, Some(verity)) => Ok(Some(verity)),
            (true, None) => Err(VarlinkError::Senseless("a layer is there and has no name".to_owned())),
        }
    }

    /// Asks for a layer. The service goes on writing it while it is read.
    ///
    /// # Errors
    /// `NoSuchLayer`.
    pub fn get_layer(&mut self, handle: u64, diff_id: &Digest) -> Result<ReceivedLayer, VarlinkError> {
        let which = wire::WhichLayer {
            diff_id: Some(diff_id.to_string()),
            storage: None,
            consumer_has_cap_dac_override: rustix::process::geteuid().is_root(),
        };
        self.get(&wire::GetLayer { handle, params: which })
    }

    /// The same for a layer of a containers-storage, from a service that has such.
    ///
    /// # Errors
    /// `NoSuchLayer`, or `InvalidRequest` from a service that has none.
    pub fn get_storage_layer(&mut self, storage_path: &str, layer_id: &str) -> Result<ReceivedLayer, VarlinkError> {
        let storage = wire::StorageLayer { storage_path: storage_path.to_owned(), layer_id: layer_id.to_owned() };
        let which = wire::WhichLayer {
            diff_id: None,
            storage: Some(storage),
            consumer_has_cap_dac_override: rustix::process::geteuid().is_root(),
        };
        self.get(&wire::GetLayer { handle: 0, params: which })
    }

    fn get(&mut self, asked: &wire::GetLayer) -> Result<ReceivedLayer, VarlinkError> {
        self.send("GetLayer", OCI, true, asked, &[])?;
        let (mut slots, mut descriptors) = (None, Vec::new());
        loop {
            let Received { bytes, descriptors: some } = self.answer()?;
            let (wire::Slots { dir_count }, continues) = reply(&bytes)??;
            let brought = some.len();
            descriptors.extend(some);
            if descriptors.len() > MAX_CALL_DESCRIPTORS {
                return Err(MessageError::TooManyDescriptors.into());
            }
            if *slots.get_or_insert(dir_count) != dir_count {
                return Err(VarlinkError::Senseless("a layer has now so many directories and now others".to_owned()));
            }
            // Each that is to be continued brings some, so that there is an end.
            if continues && brought == 0 {
                return Err(VarlinkError::Senseless("a part of a layer without descriptors".to_owned()));
            }
            if !continues {
                return ReceivedLayer::new(dir_count, descriptors, self.options.patience);
            }
        }
    }

    /// Gives a layer: the end of a pipe that its stream is read from, and the directories that the stream names. Another thread or process
    /// writes the stream meanwhile. With `zerocopy` the service refuses what it could not share.
    ///
    /// # Errors
    /// `DiffIdMismatch` when it is another layer; `InvalidRequest` when it cannot be shared.
    pub fn put_layer(
        &mut self,
        handle: u64,
        diff_id: &Digest,
        zerocopy: bool,
        stream: OwnedFd,
        directories: &[BorrowedFd<'_>],
    ) -> Result<PutLayerReport, VarlinkError> {
        let asked = wire::PutLayer { handle, diff_id: diff_id.to_string(), zerocopy };
        let descriptors: Vec<_> = std::iter::once(stream.as_fd()).chain(directories.iter().copied()).collect();
        if descriptors.len() > MAX_FRAME_DESCRIPTORS {
            return Err(MessageError::TooManyDescriptors.into());
        }
        self.send("PutLayer", OCI, false, &asked, &descriptors)?;
        drop(descriptors);
        // So that whoever writes is told when the service reads no more.
        drop(stream);
        self.one()
    }

    /// Gives a layer that another service gives: its bytes do not come by here.
    ///
    /// # Errors
    /// Those of [`Client::put_layer`].
    pub fn relay_layer(
        &mut self,
        handle: u64,
        diff_id: &Digest,
        zerocopy: bool,
        layer: ReceivedLayer,
    ) -> Result<PutLayerReport, VarlinkError> {
        let ReceivedLayer { stream, slots, lifetime, .. } = layer;
        let slots: Vec<_> = slots.iter().map(|slot| slot.as_fd()).collect();
        let put = self.put_layer(handle, diff_id, zerocopy, stream, &slots);
        // Until here the other service keeps the layer's files.
        drop(lifetime);
        put
    }

    /// Gives a layer of a cache.
    ///
    /// # Errors
    /// Those of [`Client::put_layer`], or when the cache cannot be read.
    pub fn put_split_layer(&mut self, handle: u64, layer: &SplitLayer, zerocopy: bool) -> Result<PutLayerReport, VarlinkError> {
        let (reader, writer) = io::pipe().map_err(VarlinkError::io("make a pipe"))?;
        let opened = Pipe::new(writer.into(), self.options.answer, None).map_err(VarlinkError::io("make a pipe"))?;
        let mut writer = opened.ok_or_else(|| VarlinkError::Senseless("a pipe is none".to_owned()))?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || layer.write_stream(0, &mut writer));
            let put = self.put_layer(handle, layer.diff_id(), zerocopy, reader.into(), &[layer.directory()]);
            match (put, writing.join()) {
                (Ok(report), Ok(Ok(()))) => Ok(report),
                // That the service reads no more is for it to explain.
                (Err(error), _) => Err(error),
                (Ok(_), Ok(Err(error))) => Err(error.into()),
                (Ok(_), Err(panic)) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Makes an image of layers that are there, and gives it a name. Manifest and configuration are given byte for byte, layers the lowest
    /// first, as [`Client::put_layer`] and [`Client::has_layer`] named them.
    ///
    /// # Errors
    /// `NoSuchLayer` when one is there no more, `InvalidRequest` when they do not belong together.
    pub fn finalize_image(
        &mut self,
        handle: u64,
        manifest: &str,
        config: &str,
        layers: &[LayerRef],
        name: Option<&str>,
    ) -> Result<FinalizedImage, VarlinkError> {
        let asked = wire::FinalizeImage {
            handle,
            manifest_json: manifest.to_owned(),
            config_json: config.to_owned(),
            layers: layers.to_vec(),
            name: name.map(str::to_owned),
        };
        self.call(OCI, "FinalizeImage", &asked)
    }

    /// A call with descriptors.
    pub(super) fn call_with<P: Serialize, R: DeserializeOwned>(
        &mut self,
        interface: &str,
        method: &str,
        asked: &P,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<R, VarlinkError> {
        self.send(method, interface, false, asked, descriptors)?;
        self.one()
    }

    /// A call with whose reply a file may come.
    pub(super) fn call_for_file<P: Serialize, R: DeserializeOwned>(
        &mut self,
        interface: &str,
        method: &str,
        asked: &P,
    ) -> Result<(R, Option<OwnedFd>), VarlinkError> {
        self.send(method, interface, false, asked, &[])?;
        let Received { bytes, mut descriptors } = self.answer()?;
        let (said, _) = reply(&bytes)??;
        match descriptors.len() {
            0 | 1 => Ok((said, descriptors.pop())),
            more => Err(VarlinkError::Senseless(format!("{more} files where one was asked for"))),
        }
    }

    pub(super) fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        interface: &str,
        method: &str,
        asked: &P,
    ) -> Result<R, VarlinkError> {
        self.send(method, interface, false, asked, &[])?;
        self.one()
    }

    fn send<P: Serialize>(
        &mut self,
        method: &str,
        interface: &str,
        more: bool,
        asked: &P,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), VarlinkError> {
        self.link.send(&encode_call(&format!("{interface}.{method}"), more, asked)?, descriptors)
    }

    fn answer(&mut self) -> Result<Received, VarlinkError> {
        self.link.receive(Some(self.options.answer))?.ok_or(VarlinkError::Closed)
    }

    /// The only reply; what came with it is closed.
    fn one<R: DeserializeOwned>(&mut self) -> Result<R, VarlinkError> {
        let Received { bytes, .. } = self.answer()?;
        match reply(&bytes)?? {
            (reply, false) => Ok(reply),
            (_, true) => Err(VarlinkError::Senseless("several replies where one was asked for".to_owned())),
        }
    }
}

/// A layer that a service gives: a pipe with its stream, the directories that the stream names with others between them, and what is held
/// as long as these are used.
#[derive(Debug)]
pub struct ReceivedLayer {
    stream: OwnedFd,
    slots: Vec<OwnedFd>,
    lifetime: Vec<OwnedFd>,
    patience: Duration,
}

impl ReceivedLayer {
    fn new(dir_count: u32, mut descriptors: Vec<OwnedFd>, patience: Duration) -> Result<Self, VarlinkError> {
        let ends = usize::try_from(dir_count).ok().and_then(|count| count.checked_add(1));
        let Some(ends) = ends.filter(|ends| *ends <= descriptors.len()) else {
            let why = format!("{dir_count} directories and a pipe in {} descriptors", descriptors.len());
            return Err(VarlinkError::Senseless(why));
        };
        let lifetime = descriptors.split_off(ends);
        let slots = descriptors.split_off(1);
        let stream = descriptors.pop().ok_or_else(|| VarlinkError::Senseless("a layer without a pipe".to_owned()))?;
        Ok(Self { stream, slots, lifetime, patience })
    }

    /// How many descriptors stand where directories may be.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// To be read here.
    ///
    /// # Errors
    /// When what is to be a pipe is none.
    pub fn open(self) -> Result<OpenLayer, VarlinkError> {
        let Self { stream, slots, lifetime, patience } = self;
        let stream = Pipe::new(stream, patience, None).map_err(VarlinkError::io("look at a pipe"))?;
        let stream = stream.ok_or_else(|| VarlinkError::Senseless("what is to be a pipe is none".to_owned()))?;
        Ok(OpenLayer { stream, directories: Directories::new(slots), _lifetime: lifetime })
    }
}

/// A layer that a service gives, to be read here. The service keeps its files as long as this is held.
#[derive(Debug)]
pub struct OpenLayer {
    stream: Pipe,
    directories: Directories,
    _lifetime: Vec<OwnedFd>,
}

impl OpenLayer {
    /// The layer's parts, or the tar archive that it is, of at most `limit` bytes. Once.
    pub fn reader(&mut self, limit: u64) -> SplitReader<'_, impl Read> {
        SplitReader::new(&mut self.stream, &self.directories, limit)
    }

    /// Its stream, and the directories that it is of.
    pub fn parts(&mut self) -> (impl Read, &Directories) {
        (&mut self.stream, &self.directories)
    }
}
