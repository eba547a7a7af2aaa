//! `image copy`: an image from one store of this machine into another, sharing its bytes where that can be.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use peat_blobapi::blob::{ImagePartState, ImageProgress};
use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Shared, Sharing};
use peat_blobcore::handoff::copy::{
    Came, Copied, CopyError, CopyOptions, ImageStore, LayerStore, LayoutStore, RegistryStore, Relayed, copy, relay,
};
use peat_blobcore::handoff::varlink::{
    Client, ClientOptions, Refusal, RemoteStore, Service, ServiceOptions, VarlinkError, WhichRepository,
};
use peat_blobcore::handoff::{CacheOptions, HandoffError, LayerCache};
use peat_blobcore::oci::{Algorithm, ImageReference, Tag};
use serde_json::{Value, json};

use super::parts::Parts;
use super::registry;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::show;

/// What is to go from where to where.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The image, as the store has it that it comes from: repository:tag or repository@digest.
    image: String,
    /// The store that it comes from: dir:DIRECTORY (of `registry serve`, which does not run), unix:SOCKET (a daemon's, its setting `varlink`),
    /// oci:DIRECTORY (an OCI layout), composefs:SOCKET or composefs:SOCKET,REPOSITORY, or containers-storage.
    #[arg(long, value_name = "STORE")]
    from: Store,
    /// The store that it goes into, in the same words.
    #[arg(long, value_name = "STORE")]
    to: Store,
    /// What it is called there: repository:tag. Without it, the same.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Copy no bytes: share blocks or files, or refuse and say why.
    #[arg(long)]
    zerocopy: bool,
    /// The digests that it has there. An image with others is given these: its manifests are written anew.
    #[arg(long, value_name = "FUNCTION")]
    digest: Option<Function>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Function {
    Sha256,
    Sha512,
}

/// A store of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Store {
    Directory(PathBuf),
    Daemon(PathBuf),
    Layout(PathBuf),
    Composefs(PathBuf, WhichRepository),
    ContainersStorage(String),
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let path = || match rest.strip_prefix("//").unwrap_or(rest) {
            "" => Err(format!("{text:?} names no path: {kind}:/path")),
            path => Ok(PathBuf::from(path)),
        };
        match kind {
            "dir" => path().map(Self::Directory),
            "unix" => path().map(Self::Daemon),
            "oci" => path().map(Self::Layout),
            "composefs" => {
                let path = path()?.into_os_string().into_string().unwrap_or_default();
                Ok(match path.split_once(',') {
                    None => Self::Composefs(path.into(), WhichRepository::Only),
                    Some((socket, "user")) => Self::Composefs(socket.into(), WhichRepository::User),
                    Some((socket, "system")) => Self::Composefs(socket.into(), WhichRepository::System),
                    Some((socket, of)) => Self::Composefs(socket.into(), WhichRepository::Path(of.to_owned())),
                })
            }
            "containers-storage" => Ok(Self::ContainersStorage(rest.to_owned())),
            _ => Err(format!("{text:?} is no store: dir:, unix:, oci:, composefs: or containers-storage")),
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Daemon(path) => write!(f, "unix:{}", path.display()),
            Self::Layout(path) => write!(f, "oci:{}", path.display()),
            Self::Composefs(path, _) => write!(f, "composefs:{}", path.display()),
            Self::ContainersStorage(_) => f.write_str("containers-storage"),
        }
    }
}

/// Copies it.
pub(crate) async fn run(output: &Output, options: Options) -> Result<(), Failure> {
    let (bars, image, to) = (Parts::of(output), options.image.clone(), options.to.to_string());
    // Everything here blocks on the disk.
    let done = tokio::task::spawn_blocking(move || {
        let copying = Copying { name: name_of(&options)?, options, bars };
        copying.run()
    });
    let done = done.await.map_err(|error| Failure::new(Kind::FAILED, format!("the copy was cut off: {error}")))??;
    let mut document = json!({ "image": image, "to": to, "name": done.name, "digest": done.digest });
    if let (Some(document), Value::Object(counts)) = (document.as_object_mut(), done.counts) {
        document.extend(counts);
    }
    output.result(&document, || format!("{to}: {} is {}\n{}", done.name, done.digest, done.table))
}

/// What it is called where it goes.
fn name_of(options: &Options) -> Result<ImageReference, Failure> {
    let text = options.name.as_deref().unwrap_or(&options.image);
    let name: ImageReference = text.parse().map_err(|why| Failure::usage(format!("{text}: {why}")))?;
    // A store has no registries. What has neither tag nor digest is what clients take it for.
    let latest = (name.tag.is_none() && name.digest.is_none()).then(Tag::latest);
    Ok(ImageReference { registry: None, tag: name.tag.or(latest), ..name })
}

/// What came of it, to be shown.
struct Done {
    name: String,
    digest: String,
    counts: Value,
    table: String,
}

struct Copying {
    options: Options,
    name: ImageReference,
    bars: Parts,
}

impl Copying {
    fn run(mut self) -> Result<Done, Failure> {
        let by_layers = |store: &Store| matches!(store, Store::Composefs(..));
        if by_layers(&self.options.from) || by_layers(&self.options.to) {
            return self.by_layers();
        }
        let tool = [&self.options.from, &self.options.to].into_iter().any(|store| matches!(store, Store::ContainersStorage(_)));
        if tool && self.options.zerocopy {
            return Err(Failure::new(
                Kind::REFUSED,
                "containers-storage gives and takes layers by its own tools, which copy them",
            )
            .hint("leave --zerocopy away"));
        }
        let image: ImageReference =
            self.options.image.parse().map_err(|why| Failure::usage(format!("{}: {why}", self.options.image)))?;
        let mut from = open(&self.options.from, Some(&self.options.image))?;
        let mut to = open(&self.options.to, None)?;
        let options = CopyOptions {
            sharing: if self.options.zerocopy { Sharing::Only } else { Sharing::WherePossible },
            algorithm: self.options.digest.map(|function| match function {
                Function::Sha256 => Algorithm::Sha256,
                Function::Sha512 => Algorithm::Sha512,
            }),
        };
        let bars = &mut self.bars;
        let mut hear = |part: &peat_blobcore::oci::Descriptor, came: Came| {
            let state = match came {
                Came::Present => ImagePartState::IMAGE_PART_STATE_PRESENT,
                Came::By(_) => ImagePartState::IMAGE_PART_STATE_DONE,
            };
            let digest = part.digest.to_string();
            bars.show(&ImageProgress { digest, bytes: part.size, size: part.size, state: state.into(), ..Default::default() });
        };
        let copied = copy(&mut *from.store, &mut *to.store, (&image, &self.name), options, &mut hear);
        let copied = copied.map_err(of_copy)?;
        to.finish(&self.name, self.options.name.as_deref().unwrap_or(&self.options.image))?;
        from.close()?;
        Ok(self.by_parts(&copied))
    }

    fn by_parts(&self, copied: &Copied) -> Done {
        let ways = [
            ("reflinked", Came::By(Shared::Reflinked)),
            ("hard_linked", Came::By(Shared::HardLinked)),
            ("copied", Came::By(Shared::Copied)),
            ("present", Came::Present),
        ];
        let counts = ways.map(|(way, came)| (way, copied.count(came)));
        let rows =
            counts.map(|(way, count)| [word(way).to_owned(), count.parts.to_string(), HumanBytes(count.bytes).to_string()]);
        Done {
            name: self.name.to_string(),
            digest: copied.digest.to_string(),
            counts: counts
                .map(|(way, count)| (way.to_owned(), json!({ "parts": count.parts, "bytes": count.bytes })))
                .into_iter()
                .collect(),
            table: show::table(["how", "parts", "size"], rows),
        }
    }

    fn by_layers(&self) -> Result<Done, Failure> {
        if self.options.digest.is_some() {
            return Err(Failure::usage("--digest is for stores that keep blobs, not for composefs"));
        }
        let (mut from, mut to) = (Layers::open(&self.options.from)?, Layers::open(&self.options.to)?);
        let image = ImageReference {
            registry: None,
            ..self.options.image.parse().map_err(|why| Failure::usage(format!("{}: {why}", self.options.image)))?
        };
        let relayed = relay(
            &mut from.store,
            &mut to.store,
            (&image.to_string(), &self.name.to_string()),
            self.options.zerocopy,
            &mut |_| (),
        );
        let relayed = relayed.map_err(of_copy)?;
        from.close()?;
        to.close()?;
        let Relayed { digest, layers_present, reflinked, hard_linked, copied, present, left_behind } = relayed;
        let counts = [
            ("reflinked", reflinked),
            ("hard_linked", hard_linked),
            ("copied", copied),
            ("present", present),
            ("layers_present", layers_present),
            ("left_behind", left_behind),
        ];
        Ok(Done {
            name: self.name.to_string(),
            digest: digest.to_string(),
            counts: counts.map(|(way, count)| (way.to_owned(), json!(count))).into_iter().collect(),
            table: show::table(["how", "files"], counts.map(|(way, count)| [word(way).to_owned(), count.to_string()])),
        })
    }
}

fn word(way: &str) -> &str {
    match way {
        "hard_linked" => "hard-linked",
        "present" => "there before",
        "layers_present" => "layers there before",
        "left_behind" => "signatures and the like left behind",
        way => way,
    }
}

fn of_copy(error: CopyError) -> Failure {
    Failure { kind: error.kind().into(), message: error.to_string(), hint: error.hint() }
}

fn of_varlink(error: VarlinkError) -> Failure {
    of_copy(error.into())
}

fn connect(path: &Path) -> Result<Client, Failure> {
    Client::connect(path, ClientOptions::default()).map_err(of_varlink)
}

/// A store that is open, and what has to be done with it in the end.
struct Open {
    store: Box<dyn ImageStore>,
    registry: Option<peat_blobcore::registry::Registry>,
    /// A layout between us and a tool, and what the tool calls the store.
    between: Option<(tempfile::TempDir, String)>,
}

fn open(store: &Store, image: Option<&str>) -> Result<Open, Failure> {
    let of = |store: Box<dyn ImageStore>| Open { store, registry: None, between: None };
    Ok(match store {
        Store::Directory(path) => {
            let registry = registry::open(path, image.is_some())?;
            Open { registry: Some(registry.clone()), ..of(Box::new(RegistryStore::new(registry))) }
        }
        Store::Daemon(path) => of(Box::new(RemoteStore::open(connect(path)?).map_err(of_varlink)?)),
        Store::Layout(path) if image.is_some() => of(Box::new(LayoutStore::open(path).map_err(of_copy)?)),
        Store::Layout(path) => of(Box::new(LayoutStore::create(path).map_err(of_copy)?)),
        Store::ContainersStorage(spec) => {
            let between = tempfile::tempdir().map_err(Failure::io("cannot make a directory for what comes between"))?;
            let layout = between.path().join("layout");
            let store = match image {
                Some(image) => {
                    let tag = image
                        .parse::<ImageReference>()
                        .ok()
                        .and_then(|image| image.tag)
                        .map_or("latest".to_owned(), |tag| tag.to_string());
                    skopeo(&format!("containers-storage:{spec}{image}"), &format!("oci:{}:{tag}", layout.display()))?;
                    LayoutStore::open(&layout)
                }
                None => LayoutStore::create(&layout),
            };
            Open { between: Some((between, spec.clone())), ..of(Box::new(store.map_err(of_copy)?)) }
        }
        Store::Composefs(..) => unreachable!("composefs is copied by layers"),
    })
}

impl Open {
    /// What came is where it was to go. A tool is told the name as it was given, with a registry if there is one.
    fn finish(mut self, name: &ImageReference, given: &str) -> Result<(), Failure> {
        if let Some((between, spec)) = self.between.take() {
            let tag = name.tag.clone().map_or("latest".to_owned(), |tag| tag.to_string());
            let layout = format!("oci:{}:{tag}", between.path().join("layout").display());
            skopeo(&layout, &format!("containers-storage:{spec}{given}"))?;
        }
        self.close()
    }

    fn close(self) -> Result<(), Failure> {
        close(self.registry)
    }
}

fn close(registry: Option<peat_blobcore::registry::Registry>) -> Result<(), Failure> {
    let Some(registry) = registry else { return Ok(()) };
    registry.close();
    registry.content().close().map_err(|error| Failure::from(peat_blobcore::Error::from(error)))
}

/// What containers-storage supports: its own tool, which reads storage.conf, and additional stores.
fn skopeo(from: &str, to: &str) -> Result<(), Failure> {
    let run = Command::new("skopeo").args(["copy", "--quiet", from, to]).stdin(Stdio::null()).output();
    let ended = run.map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Failure::new(Kind::FAILED, "containers-storage is reached by skopeo, which is not there")
            .hint("install skopeo, or save the image as an archive and `image import` that"),
        _ => Failure::io("cannot run skopeo")(source),
    })?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(Failure::new(Kind::FAILED, format!("skopeo copy {from} {to}: {}", show::printable(last))))
}

/// A store of layers that is open: somebody's, or a directory of ours that this process serves to itself.
struct Layers {
    store: LayerStore,
    own: Option<(Service, peat_blobcore::registry::Registry)>,
}

impl Layers {
    fn open(store: &Store) -> Result<Self, Failure> {
        let (client, which, own) = match store {
            Store::Composefs(path, which) => (connect(path)?, which.clone(), None),
            Store::Daemon(path) => (connect(path)?, WhichRepository::Only, None),
            Store::Directory(path) => {
                let registry = registry::open(path, false)?;
                let cache = LayerCache::open(&path.join("layers"), CacheOptions::default(), Arc::new(SystemClock));
                let of_handoff = |error: HandoffError| of_varlink(error.into());
                let service = Service::new(registry.clone(), cache.map_err(of_handoff)?, ServiceOptions::new(path));
                let service = service.map_err(Failure::io("cannot serve the directory"))?;
                let pair = std::os::unix::net::UnixStream::pair().map_err(Failure::io("cannot make a socket"))?;
                service.serve(pair.0).map_err(of_varlink)?;
                (Client::over(pair.1, ClientOptions::default()), WhichRepository::Only, Some((service, registry)))
            }
            Store::Layout(_) | Store::ContainersStorage(_) => {
                return Err(Failure::usage(format!("{store} and composefs share no form"))
                    .hint("copy it into a store of ours (dir: or unix:) first, and from there"));
            }
        };
        let store = LayerStore::open(client, &which).map_err(|error| match error {
            VarlinkError::Refused(Refusal::InvalidSpec { .. }) if which == WhichRepository::Only => {
                of_varlink(error).hint("say which one the service is to open: composefs:SOCKET,REPOSITORY")
            }
            error => of_varlink(error),
        })?;
        Ok(Self { store, own })
    }

    fn close(self) -> Result<(), Failure> {
        drop(self.store);
        let Some((service, registry)) = self.own else { return Ok(()) };
        service.stop(std::time::Duration::from_secs(30));
        close(Some(registry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_their_kind_and_place() {
        let store = |text: &str| text.parse::<Store>();
        assert_eq!(store("dir:/a"), Ok(Store::Directory("/a".into())));
        assert_eq!(store("unix:///run/x.sock"), Ok(Store::Daemon("/run/x.sock".into())));
        assert_eq!(store("oci:layout"), Ok(Store::Layout("layout".into())));
        assert_eq!(store("composefs:/s"), Ok(Store::Composefs("/s".into(), WhichRepository::Only)));
        assert_eq!(store("composefs:/s,/repo"), Ok(Store::Composefs("/s".into(), WhichRepository::Path("/repo".into()))));
        assert_eq!(store("composefs:/s,user"), Ok(Store::Composefs("/s".into(), WhichRepository::User)));
        assert_eq!(store("containers-storage"), Ok(Store::ContainersStorage(String::new())));
        for bad in ["", "dir:", "unix://", "docker:x", "/path"] {
            assert!(store(bad).is_err(), "{bad}");
        }
    }
}
