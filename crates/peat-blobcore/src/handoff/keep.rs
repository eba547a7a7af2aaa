//! Where split layers are kept, and how many: `objects/ab/cdef…` are the files of all layers by their BLAKE3, `layers/<digest>.stream`
//! is a layer, `layers/<digest>.objects` the names of its objects, 32 bytes each. The stream's name makes it exist.
//!
//! Everything in the directory can be made again, and goes when the quota says so, what was used longest ago first. Must never take
//! away what a layer needs that is in use or being made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use super::{CacheOptions, HandoffError};
use crate::model::Timestamp;

const STREAM: &str = "stream";
const LIST: &str = "objects";
const COMING: &str = "coming";

/// Lists of objects up to this size in all are held in memory as a whole.
const LISTED_AT_ONCE_BYTES: u64 = 2 * 1024 * 1024;

/// What names an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectName([u8; 32]);

impl ObjectName {
    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seen from the objects' directory.
    pub(super) fn path(&self) -> String {
        let hex = data_encoding::HEXLOWER.encode(&self.0);
        format!("{}/{}", &hex[..2], &hex[2..])
    }

    fn parse(first: &str, rest: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(format!("{first}{rest}").as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl From<blake3::Hash> for ObjectName {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.into())
    }
}

/// The name that a file's bytes have, from the first on.
pub(super) fn hash_of(file: &File) -> io::Result<ObjectName> {
    let mut hasher = blake3::Hasher::new();
    let (mut buffer, mut at) = (vec![0; 128 * 1024], 0);
    loop {
        match std::os::unix::fs::FileExt::read_at(file, &mut buffer, at)? {
            0 => return Ok(hasher.finalize().into()),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}

/// A layer that is kept.
#[derive(Debug)]
struct Kept {
    used: Timestamp,
    /// Whether this process has held it against its digest.
    verified: bool,
    /// Others have it while it is in use.
    lease: Arc<()>,
}

#[derive(Debug, Default)]
struct State {
    layers: BTreeMap<String, Kept>,
    /// Bytes of everything, or what was promised to the build.
    bytes: u64,
    /// Bytes of streams that are coming.
    coming: u64,
}

#[derive(Debug)]
pub(super) struct Keep {
    dir: PathBuf,
    options: CacheOptions,
    state: Mutex<State>,
    /// Held by this process alone.
    _lock: File,
}

impl Keep {
    pub(super) fn open(dir: &Path, options: CacheOptions) -> Result<Self, HandoffError> {
        let make_as = |mode, path: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
            made.map_err(HandoffError::io("create", path.display()))
        };
        // Others come in by the descriptor that they are given, or not at all.
        make_as(0o700, dir)?;
        let make = |path: &Path| make_as(0o755, path);
        let lock = dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(HandoffError::io("open", lock.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HandoffError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(HandoffError::io("lock", lock.display())(error)),
        }
        for first in 0..=u8::MAX {
            make(&dir.join("objects").join(format!("{first:02x}")))?;
        }
        make(&dir.join("layers"))?;
        let keep = Self { dir: dir.to_owned(), options, state: Mutex::default(), _lock: file };
        keep.forget_build()?;
        remove(&keep.dir.join(COMING))?;
        let mut layers = BTreeMap::new();
        for name in names(&keep.dir.join("layers"))? {
            let whole = name.strip_suffix(".stream").filter(|layer| keep.layer(layer, LIST).is_file());
            let Some(layer) = whole else {
                if !name.strip_suffix(".objects").is_some_and(|layer| keep.layer(layer, STREAM).is_file()) {
                    remove(&keep.dir.join("layers").join(&name))?;
                }
                continue;
            };
            let modified = fs::metadata(keep.layer(layer, STREAM)).and_then(|metadata| metadata.modified());
            let since = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            let used = Timestamp::default().plus(since);
            layers.insert(layer.to_owned(), Kept { used, verified: false, lease: Arc::default() });
        }
        keep.state().layers = layers;
        keep.sweep()?;
        Ok(keep)
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(super) fn object(&self, name: &ObjectName) -> PathBuf {
        self.objects().join(name.path())
    }

    pub(super) fn stream(&self, layer: &str) -> PathBuf {
        self.layer(layer, STREAM)
    }

    fn layer(&self, layer: &str, what: &str) -> PathBuf {
        self.dir.join("layers").join(format!("{layer}.{what}"))
    }

    pub(super) fn temp(&self, name: &str) -> PathBuf {
        self.dir.join("tmp").join(name)
    }

    pub(super) fn temp_object(&self, name: &ObjectName) -> PathBuf {
        self.temp(&data_encoding::HEXLOWER.encode(name.as_bytes()))
    }

    pub(super) fn building_stream(&self) -> PathBuf {
        self.temp(STREAM)
    }

    pub(super) fn building_list(&self) -> PathBuf {
        self.temp(LIST)
    }

    /// Makes everything in the file system durable.
    pub(super) fn sync(&self) -> Result<(), HandoffError> {
        let sync = || Ok(rustix::fs::syncfs(File::open(&self.dir)?)?);
        sync().map_err(HandoffError::io("sync", self.dir.display()))
    }

    /// Takes a layer into use, if it is kept; and says whether it was held against its digest.
    pub(super) fn take(&self, layer: &str, now: Timestamp) -> Option<(Arc<()>, bool)> {
        let mut state = self.state();
        let kept = state.layers.get_mut(layer)?;
        kept.used = now;
        // It is for the next start to know; what it fails with is of no account.
        let time = UNIX_EPOCH + Duration::from_millis(now.as_millis());
        let _ = File::open(self.stream(layer)).and_then(|file| file.set_modified(time));
        Some((Arc::clone(&kept.lease), kept.verified))
    }

    pub(super) fn verified(&self, layer: &str) {
        if let Some(kept) = self.state().layers.get_mut(layer) {
            kept.verified = true;
        }
    }

    /// Whether a layer that was taken into use is still the one that is kept.
    pub(super) fn is_kept(&self, layer: &str, lease: &Arc<()>) -> bool {
        self.state().layers.get(layer).is_some_and(|kept| Arc::ptr_eq(&kept.lease, lease))
    }

    /// Keeps the layer that was built. All of it is durable.
    pub(super) fn put(&self, layer: &str, now: Timestamp) -> Result<(), HandoffError> {
        for (from, to) in [(self.building_list(), self.layer(layer, LIST)), (self.building_stream(), self.layer(layer, STREAM))] {
            fs::rename(&from, &to).map_err(HandoffError::io("name", to.display()))?;
        }
        let layers = self.dir.join("layers");
        File::open(&layers).and_then(|dir| dir.sync_all()).map_err(HandoffError::io("sync", layers.display()))?;
        self.state().layers.insert(layer.to_owned(), Kept { used: now, verified: false, lease: Arc::default() });
        Ok(())
    }

    /// Removes what a build left that did not end.
    pub(super) fn forget_build(&self) -> Result<(), HandoffError> {
        let tmp = self.dir.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HandoffError::io("remove", tmp.display())(error));
            }
            _ => {}
        }
        fs::create_dir(&tmp).map_err(HandoffError::io("create", tmp.display()))
    }

    /// Forgets a layer. Those who have it go on with it as long as its objects are there.
    pub(super) fn forget(&self, layer: &str) -> Result<(), HandoffError> {
        self.state().layers.remove(layer);
        remove(&self.layer(layer, STREAM))?;
        remove(&self.layer(layer, LIST))
    }

    /// Bytes of everything.
    pub(super) fn bytes(&self) -> u64 {
        let state = self.state();
        state.bytes + state.coming
    }

    /// A file without a name for a stream that comes.
    pub(super) fn coming(&self) -> Result<File, HandoffError> {
        let path = self.dir.join(COMING);
        let failed = || HandoffError::io("create", path.display());
        // Of two who make it at once, one finds it made, or gone.
        let _state = self.state();
        remove(&path)?;
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed())?;
        fs::remove_file(&path).map_err(failed())?;
        Ok(file)
    }

    /// Takes so many bytes for a stream that comes, if there is room for them.
    pub(super) fn fits_coming(&self, bytes: u64) -> Result<bool, HandoffError> {
        let fits = self.fits(bytes)?;
        if fits {
            self.is_coming(bytes);
        }
        Ok(fits)
    }

    /// The same, and layers are forgotten for it where that is needed. Nothing may be built meanwhile.
    pub(super) fn make_room_for_coming(&self, bytes: u64) -> Result<(), HandoffError> {
        self.make_room(bytes)?;
        self.is_coming(bytes);
        Ok(())
    }

    /// Bytes that were taken for a build are a stream's.
    fn is_coming(&self, bytes: u64) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.coming += bytes;
    }

    /// A stream that came is gone.
    pub(super) fn forget_coming(&self, bytes: u64) {
        let mut state = self.state();
        state.coming = state.coming.saturating_sub(bytes);
    }

    /// Takes so many bytes for the build, if there is room for them.
    pub(super) fn fits(&self, bytes: u64) -> Result<bool, HandoffError> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|errno| HandoffError::io("look for free space in", self.dir.display())(errno.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let mut state = self.state();
        let taken = state.bytes.saturating_add(state.coming);
        let fits = taken.saturating_add(bytes) <= self.options.quota && free.saturating_sub(self.options.reserve) >= bytes;
        if fits {
            state.bytes += bytes;
        }
        Ok(fits)
    }

    /// Takes so many bytes for the build, and forgets layers for it where that is needed.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), HandoffError> {
        while !self.fits(bytes)? {
            let oldest = {
                let mut state = self.state();
                let idle = state.layers.iter().filter(|(_, kept)| Arc::strong_count(&kept.lease) == 1);
                let oldest = idle.min_by_key(|(_, kept)| kept.used).map(|(name, _)| name.clone());
                // Nobody takes it into use from here on.
                oldest.inspect(|oldest| drop(state.layers.remove(oldest)))
            };
            self.forget(&oldest.ok_or_else(|| self.no_room(bytes))?)?;
            self.sweep()?;
        }
        Ok(())
    }

    pub(super) fn no_room(&self, wanted: u64) -> HandoffError {
        let CacheOptions { quota, reserve, .. } = self.options;
        HandoffError::NoRoom { wanted, quota, reserve }
    }

    /// What was promised and not needed.
    pub(super) fn give_back(&self, bytes: u64) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Removes the objects that no layer has, neither one that is kept nor the one that is being made, and counts the rest.
    pub(super) fn sweep(&self) -> Result<(), HandoffError> {
        let layers: Vec<String> = self.state().layers.keys().cloned().collect();
        let mut lists = vec![self.building_list()];
        lists.extend(layers.iter().map(|layer| self.layer(layer, LIST)));
        let listed: u64 = lists.iter().map(|list| length(list)).sum();
        let parts = if listed > LISTED_AT_ONCE_BYTES { 16 } else { 1 };
        self.sweep_in(parts, &layers, &lists)
    }

    /// Goes over the objects in so many parts, a divisor of 256: memory is for the names of one.
    fn sweep_in(&self, parts: usize, layers: &[String], lists: &[PathBuf]) -> Result<(), HandoffError> {
        let mut bytes = layers.iter().map(|layer| length(&self.layer(layer, STREAM)) + length(&self.layer(layer, LIST))).sum();
        for name in names(&self.dir.join("tmp"))? {
            bytes += length(&self.temp(&name));
        }
        for part in (0..256).step_by(256 / parts).map(|first| first..first + 256 / parts) {
            let mut needed = BTreeSet::new();
            for list in lists {
                each_name(list, &mut |name| {
                    if part.contains(&usize::from(name.0[0])) {
                        needed.insert(name);
                    }
                })?;
            }
            for first in part.clone() {
                let first = format!("{first:02x}");
                let dir = self.objects().join(&first);
                for rest in names(&dir)? {
                    let path = dir.join(&rest);
                    match ObjectName::parse(&first, &rest).filter(|name| needed.contains(name)) {
                        Some(_) => bytes += length(&path),
                        None => remove(&path)?,
                    }
                }
            }
        }
        self.state().bytes = bytes;
        Ok(())
    }

    /// Reads every object, and removes those that are not what they are called: they were damaged. No layer counts as verified then.
    pub(super) fn scrub(&self) -> Result<(), HandoffError> {
        self.state().layers.values_mut().for_each(|kept| kept.verified = false);
        for first in 0..=u8::MAX {
            let first = format!("{first:02x}");
            let dir = self.objects().join(&first);
            for rest in names(&dir)? {
                let path = dir.join(&rest);
                let file = File::open(&path).map_err(HandoffError::io("open", path.display()))?;
                if hash_of(&file).ok() != ObjectName::parse(&first, &rest) {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names in a list of objects; one that is gone has none.
fn each_name(list: &Path, each: &mut dyn FnMut(ObjectName)) -> Result<(), HandoffError> {
    let mut reader = match File::open(list) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(HandoffError::io("open", list.display())(error)),
    };
    let mut name = [0; 32];
    loop {
        match reader.read_exact(&mut name) {
            Ok(()) => each(ObjectName(name)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(HandoffError::io("read", list.display())(error)),
        }
    }
}

/// The names in a directory that are text; there are no others.
fn names(dir: &Path) -> Result<Vec<String>, HandoffError> {
    let list = || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let names = list().map_err(HandoffError::io("list", dir.display()))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

fn length(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}

fn remove(path: &Path) -> Result<(), HandoffError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HandoffError::io("remove", path.display())(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_layer_has_goes_and_the_rest_is_counted_in_however_many_parts() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = CacheOptions { reserve: 0, ..CacheOptions::default() };
        drop(Keep::open(dir.path(), options).expect("a new one"));
        let name = |at: u32| ObjectName::from(blake3::hash(&at.to_le_bytes()));
        let object = |at: u32| dir.path().join("objects").join(name(at).path());
        let list: Vec<u8> = (0..100).flat_map(|at| *name(at).as_bytes()).collect();
        let paths = ["stream", "objects"].map(|what| dir.path().join(format!("layers/sha256-00.{what}")));
        fs::write(&paths[0], [7; 10]).expect("written");
        fs::write(&paths[1], &list).expect("written");
        let fill = || (0..200).for_each(|at| fs::write(object(at), [7; 20]).expect("written"));
        fill();
        let keep = Keep::open(dir.path(), options).expect("it opens");
        let bytes = 10 + 3200 + 100 * 20;
        for parts in [1, 16, 256] {
            assert_eq!(keep.bytes(), bytes);
            assert!((0..200).all(|at| object(at).exists() == (at < 100)), "{parts}");
            fill();
            keep.sweep_in(parts, &["sha256-00".to_owned()], &paths[1..]).expect("swept");
        }
        assert_eq!(keep.bytes(), bytes);
        assert!((0..200).all(|at| object(at).exists() == (at < 100)));
    }
}
