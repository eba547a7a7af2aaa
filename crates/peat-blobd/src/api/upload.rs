//! Files that a caller streams. They wait in a directory of their own beside the store until all have come, and are then sent
//! as any other directory; what was begun and not ended leaves nothing.

use std::fs::{File, FileTimes, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use connectrpc::{ConnectError, InboundStream};
use n0_future::StreamExt as _;
use peat_blobapi::blob::{self, oneof::send_stream_request::Part};
use peat_blobcore::model::RelativePath;
use peat_blobcore::{Error, ErrorKind, Sent};

use super::errors::{answer, failed, invalid};
use super::{Daemon, convert};
use crate::Config;

/// Takes a stream of files and sends them as one distribution.
pub(super) async fn receive(
    daemon: &Arc<Daemon>,
    mut requests: InboundStream<blob::SendStreamRequest>,
) -> Result<Sent, ConnectError> {
    let config = daemon.config();
    let options = match requests.next().await.transpose()?.and_then(|first| first.to_owned_message().part) {
        Some(Part::Options(options)) => options,
        _ => return Err(invalid("options", "they come first")),
    };
    let directory = Directory::make(&daemon.uploads)?;
    let mut request = convert::request(directory.0.clone(), &options, config.default_priority)?;
    if options.root_name.is_empty() {
        "stream".clone_into(&mut request.root_name);
    }
    let mut upload = Upload { directory, file: None, files: 0, bytes: 0 };
    while let Some(part) = requests.next().await.transpose()? {
        let part = part.to_owned_message().part;
        // Writing may block, on a full page cache for seconds.
        let config = Arc::clone(&config);
        let taken = tokio::task::spawn_blocking(move || upload.take(part, &config).map(|()| upload));
        upload = taken.await.map_err(|_| failed(Error::Stopped))??;
    }
    upload.end_file()?;
    if upload.files == 0 {
        return Err(invalid("file", "the stream has none"));
    }
    let daemon = Arc::clone(daemon);
    // Sent to its end even if the caller goes now: the directory must not go from under it.
    let sending = tokio::spawn(async move {
        let sent = daemon.node.send(request).await;
        drop(upload);
        sent
    });
    sending.await.map_err(|_| failed(Error::Stopped))?.map_err(failed)
}

/// A directory that goes when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn make(uploads: &Path) -> Result<Self, ConnectError> {
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| full(uploads, &error.into()))?;
        let path = uploads.join(u64::from_le_bytes(name).to_string());
        std::fs::create_dir_all(&path).map_err(|error| full(&path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "what was streamed cannot be removed; the next start does it");
        }
    }
}

/// A stream of files as far as it has come.
struct Upload {
    directory: Directory,
    file: Option<(File, i64)>,
    files: u64,
    bytes: u64,
}

impl Upload {
    fn take(&mut self, part: Option<Part>, config: &Config) -> Result<(), ConnectError> {
        match part {
            Some(Part::File(file)) => {
                self.end_file()?;
                self.files += 1;
                if self.files > u64::from(config.max_files_per_bundle) {
                    return Err(too_much(format!("more than {} files", config.max_files_per_bundle), "max_files_per_bundle"));
                }
                self.begin(&file)
            }
            Some(Part::Chunk(chunk)) => {
                let Some((file, _)) = &mut self.file else { return Err(invalid("chunk", "a file comes first")) };
                self.bytes += chunk.len() as u64;
                if let Some(most) = config.max_bundle_bytes.filter(|most| self.bytes > *most) {
                    return Err(too_much(format!("more than {most} bytes"), "max_bundle_bytes"));
                }
                file.write_all(&chunk).map_err(|error| full(&self.directory.0, &error))
            }
            Some(Part::Options(_)) => Err(invalid("options", "they come once")),
            None => Err(invalid("part", "it is of no kind that this version knows")),
        }
    }

    fn begin(&mut self, file: &blob::StreamedFile) -> Result<(), ConnectError> {
        let name = String::from_utf8_lossy(&file.path);
        let path = RelativePath::parse(&file.path).map_err(|error| invalid("file.path", format_args!("{name:?}: {error}")))?;
        let path = self.directory.0.join(path.as_str());
        let parent = path.parent().expect("it is beneath the directory");
        std::fs::create_dir_all(parent).map_err(|error| full(parent, &error))?;
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let created = created.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => invalid("file.path", format_args!("{name:?} comes twice")),
            _ => full(&path, &error),
        })?;
        let mode = if file.mode == 0 { 0o644 } else { file.mode & 0o777 };
        // Its owner reads it until it is in the store.
        let permissions = std::fs::Permissions::from_mode(mode | 0o400);
        created.set_permissions(permissions).map_err(|error| full(&path, &error))?;
        self.file = Some((created, file.mtime));
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ConnectError> {
        let Some((file, mtime)) = self.file.take() else { return Ok(()) };
        let Ok(since) = u64::try_from(mtime) else { return Ok(()) };
        if since > 0 {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(since);
            file.set_times(FileTimes::new().set_modified(time)).map_err(|error| full(&self.directory.0, &error))?;
        }
        Ok(())
    }
}

fn full(path: &Path, error: &std::io::Error) -> ConnectError {
    let hint = "look at the file system of the data directory";
    answer(ErrorKind::of_io(error), format!("{}: {error}", path.display()), Some(hint.to_owned()))
}

pub(super) fn too_much(what: String, setting: &str) -> ConnectError {
    let mut error = answer(ErrorKind::Refused, what, Some(format!("send less at a time, or raise {setting}")));
    error.code = connectrpc::ErrorCode::ResourceExhausted;
    error
}
