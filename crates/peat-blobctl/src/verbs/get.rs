//! `get`: bytes out of the node. They are hashed on the way, written under a temporary name, and named once they are whole.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::HumanBytes;
use peat_blobapi::blob::{File, ReadBlobRequest};
use serde_json::json;

use crate::daemon::{Address, Daemon};
use crate::failure::{Failure, Kind, of_daemon};
use crate::output::Output;
use crate::{secret, show};

/// Files of a distribution that the daemon lists.
const LISTED_FILES: u64 = 1000;

/// What to fetch, and where to.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A distribution's id, or its first eight or more digits; or the hash of a blob.
    id: String,
    /// The file's path in the distribution. Not needed where there is one file only.
    path: Option<String>,
    /// Where to: a file, which is replaced, a directory, or - for standard output. Without it, a new file of the same name
    /// here.
    #[arg(short = 'o', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The blob, and the name that it goes by.
struct Wanted {
    blob: String,
    name: String,
}

/// Fetches it.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let wanted = find(&daemon, options).await?;
    if options.file.as_deref() == Some(Path::new("-")) {
        return fetch(&daemon, &wanted.blob, |bytes| output.bytes(bytes)).await.map(drop);
    }
    let target = match &options.file {
        Some(path) if path.is_dir() => path.join(&wanted.name),
        Some(path) => path.clone(),
        None => PathBuf::from(&wanted.name),
    };
    if options.file.is_none() && target.try_exists().map_err(Failure::io(target.display()))? {
        return Err(secret::exists(&target).hint("name a file with -o; one that is there is replaced"));
    }
    let cannot = || Failure::io(format!("cannot write {}", target.display()));
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As other programs make a file: the umask says who may read it.
    let ordinary = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(ordinary).tempfile_in(parent).map_err(cannot())?;
    let bytes = fetch(&daemon, &wanted.blob, |bytes| file.write_all(bytes).map_err(cannot())).await?;
    file.as_file().sync_all().map_err(cannot())?;
    file.persist(&target).map_err(|error| cannot()(error.error))?;
    secret::sync_parent(&target).map_err(cannot())?;
    let document = json!({ "blob": wanted.blob, "bytes": bytes, "file": target });
    output.result(&document, || format!("{}: {}", target.display(), HumanBytes(bytes)))
}

/// Finds the blob that is meant.
async fn find(daemon: &Daemon, options: &Options) -> Result<Wanted, Failure> {
    let found = match daemon.distribution(&options.id, true).await {
        // Sixty-four digits that are no distribution are a blob; whether it is here, the daemon says.
        Err(failure) if failure.kind == Kind::NOT_FOUND && options.id.len() == 64 && options.path.is_none() => {
            let blob = options.id.to_ascii_lowercase();
            return Ok(Wanted { name: blob.clone(), blob });
        }
        found => found?,
    };
    let listed = found.files;
    let file = match &options.path {
        Some(path) => listed.iter().find(|file| file.path == path.as_bytes()),
        None if found.distribution.file_count == 1 => listed.first(),
        None => {
            let names = listed.iter().take(5).map(|file| show::path(&file.path)).collect::<Vec<_>>().join(", ");
            let count = show::count(found.distribution.file_count, "file");
            return Err(Failure::usage(format!("the distribution has {count}: name one")).hint(format!("it begins with {names}")));
        }
    };
    match file {
        Some(file) => Ok(Wanted { blob: file.blob.clone(), name: name_of(file) }),
        None if listed.is_empty() => Err(Failure::new(Kind::NOT_FOUND, "the list of the distribution's files is not here yet")
            .hint("`peat-blobctl status ID` says what it waits for")),
        None if found.distribution.file_count > LISTED_FILES => {
            Err(Failure::new(Kind::NOT_FOUND, format!("the file is not among the first {LISTED_FILES}"))
                .hint("name it by the hash of its blob"))
        }
        None => Err(Failure::new(Kind::NOT_FOUND, "the distribution has no file of that path")
            .hint("`peat-blobctl status ID --files` lists its files")),
    }
}

/// The last component of a path if it can be a file's name, else the blob's hash.
fn name_of(file: &File) -> String {
    let last = file.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match std::str::from_utf8(last) {
        Ok(name) if !name.is_empty() && !matches!(name, "." | "..") && !name.contains('\0') => name.to_owned(),
        _ => file.blob.clone(),
    }
}

/// Reads a blob to its end and holds it against its hash; returns its size.
async fn fetch(daemon: &Daemon, blob: &str, mut write: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<u64, Failure> {
    let request = ReadBlobRequest { blob: blob.to_owned(), ..Default::default() };
    let mut parts = daemon.client.read_blob(request).await.map_err(|error| of_daemon(&error))?;
    let mut hasher = blake3::Hasher::new();
    while let Some(part) = parts.message().await.map_err(|error| of_daemon(&error))? {
        let chunk = part.view().chunk;
        hasher.update(chunk);
        write(chunk)?;
    }
    if hasher.finalize().to_hex().as_str() == blob {
        return Ok(hasher.count());
    }
    Err(Failure::new(Kind::INTEGRITY, format!("what came is not the blob {}", show::short(blob)))
        .hint("try again; if it stays so, run `peat-blobctl check`"))
}
