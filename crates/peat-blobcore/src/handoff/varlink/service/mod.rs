//! The service of split layers over the registry of a node and a cache of layers.
//!
//! - here: connections, how many there may be and how they end; `calls`: what is called
//! - `images` lists, shows, checks and names them; `layers` gives layers out and takes them in, `index` knows in which images they are;
//!   `finish` makes images of layers that were taken in; `store` gives and takes blobs as they travel
//!
//! Each connection has a thread, and each layer that is given out. Must never serve another user than the own and root, nor keep
//! anything of a client that is gone but the layers that it put, for a while.

mod calls;
mod finish;
mod images;
mod index;
mod layers;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::VarlinkError;
use super::link::{Link, Room, is_own};
use super::wait::Stop;
use crate::handoff::LayerCache;
use crate::registry::Registry;
use calls::Session;
use index::Index;
use layers::{HandedOut, Put};

/// What a service allows for.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// What the repository may be opened as: the node's data directory.
    pub path: PathBuf,
    /// Most connections at once. When there are so many, the one that has been silent for longest makes room.
    pub connections: usize,
    /// How long a client may do nothing in the midst of a message, or of the stream of a layer that it gives.
    pub patience: Duration,
    /// Most layers that are given out at once.
    pub handed_out: usize,
    /// How long a client may not read on in the stream of a layer: it may be copying a large file meanwhile.
    pub reading: Duration,
    /// How long a layer that was given out is kept for who has not closed its lifetimes.
    pub lifetime: Duration,
    /// Most layers that were put and are of no image yet, and how long they are kept.
    pub put: usize,
    /// How long these are kept.
    pub put_lifetime: Duration,
    /// Most directory slots of a layer that is given out. One is the directory; the others have what is none.
    pub slots: u32,
}

impl ServiceOptions {
    /// The defaults, for a repository that may be opened by that path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            connections: 32,
            patience: Duration::from_secs(30),
            handed_out: 64,
            reading: Duration::from_secs(600),
            lifetime: Duration::from_secs(3600),
            put: 256,
            put_lifetime: Duration::from_secs(600),
            slots: 8,
        }
    }
}

/// Bytes that long messages may take, of all connections together.
const MESSAGES_ROOM_BYTES: usize = 64 * 1024 * 1024;

/// A service: a cheap handle, to be cloned.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    cache: LayerCache,
    options: ServiceOptions,
    room: Room,
    stop: Arc<Stop>,
    connections: Mutex<Connections>,
    /// A thread has ended.
    ended: Condvar,
    index: Mutex<Index>,
    handed_out: HandedOut,
    put: Mutex<Put>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    /// Those that have a place.
    places: BTreeMap<u64, Place>,
    /// Threads that have not ended.
    threads: usize,
    stopped: bool,
}

#[derive(Debug)]
struct Place {
    socket: Arc<UnixStream>,
    /// Since when there was no call; `None` while there is one.
    silent: Option<Instant>,
}

/// Gives a connection's place back.
struct Leave {
    service: Service,
    socket: Arc<UnixStream>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        // Before the client hears of it: he may come again at once.
        self.service.connections().places.remove(&self.id);
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Service {
    /// A service over a registry and a cache.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new(registry: Registry, cache: LayerCache, options: ServiceOptions) -> io::Result<Self> {
        let handed_out = HandedOut::new(options.handed_out);
        Ok(Self(Arc::new(Inner {
            registry,
            cache,
            options,
            room: Room::new(MESSAGES_ROOM_BYTES),
            stop: Stop::new()?,
            connections: Mutex::default(),
            ended: Condvar::new(),
            index: Mutex::default(),
            handed_out,
            put: Mutex::default(),
        })))
    }

    /// Serves a connection, on a thread of its own.
    ///
    /// # Errors
    /// `Stranger` when it is another user, `Busy` when all places have calls under way, or when there are no more threads.
    pub fn serve(&self, socket: UnixStream) -> Result<(), VarlinkError> {
        is_own(&socket)?;
        let socket = Arc::new(socket);
        let id = self.place(&socket)?;
        let leave = Leave { service: self.clone(), socket: Arc::clone(&socket), id };
        let link = Link::new(Arc::clone(&socket), self.0.options.patience, Some(Arc::clone(&self.0.stop)), self.0.room.clone());
        self.spawn("varlink", move || {
            let service = &leave.service;
            match Session::new(service, link).run(|silent| service.silent(id, silent)) {
                Ok(()) | Err(VarlinkError::Stopped) => {}
                Err(error) => tracing::debug!(%error, "a client of layers is cut off"),
            }
        })
    }

    /// Finds a place for a connection.
    fn place(&self, socket: &Arc<UnixStream>) -> Result<u64, VarlinkError> {
        let mut connections = self.connections();
        if connections.stopped {
            return Err(VarlinkError::Stopped);
        }
        if connections.places.len() >= self.0.options.connections {
            let silent = connections.places.iter().filter_map(|(id, place)| Some((place.silent?, *id)));
            let (_, oldest) = silent.min().ok_or(VarlinkError::Busy)?;
            if let Some(place) = connections.places.remove(&oldest) {
                let _ = place.socket.shutdown(Shutdown::Both);
            }
        }
        let id = connections.next;
        connections.next += 1;
        connections.places.insert(id, Place { socket: Arc::clone(socket), silent: Some(Instant::now()) });
        Ok(id)
    }

    fn silent(&self, id: u64, silent: bool) {
        if let Some(place) = self.connections().places.get_mut(&id) {
            place.silent = silent.then(Instant::now);
        }
    }

    /// Runs something on a thread that the service waits for when it ends.
    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), VarlinkError> {
        struct Running(Service);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.connections().threads -= 1;
                self.0.0.ended.notify_all();
            }
        }
        self.connections().threads += 1;
        let running = Running(self.clone());
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped after all that the work has.
            let _running = running;
            work();
        });
        spawned.map(drop).map_err(VarlinkError::io("start a thread"))
    }

    /// Lets go of layers that were put and waited for long enough. To be called now and then: calls do so too.
    pub fn expire(&self) {
        self.put().expire(&self.0.options);
    }

    /// Ends: takes no more connections, and cuts off those that are there. Whether all threads ended within that time; a layer that is
    /// being made is made to its end.
    pub fn stop(&self, within: Duration) -> bool {
        let mut connections = self.connections();
        connections.stopped = true;
        self.0.stop.stop();
        for place in connections.places.values() {
            let _ = place.socket.shutdown(Shutdown::Both);
        }
        let waited = self.0.ended.wait_timeout_while(connections, within, |connections| connections.threads > 0);
        let (connections, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let ended = connections.threads == 0;
        drop(connections);
        self.0.put.lock().unwrap_or_else(PoisonError::into_inner).clear();
        ended
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
