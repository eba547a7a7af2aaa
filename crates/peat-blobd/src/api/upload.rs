//! Files that a caller streams. They go straight into the store and wait there until all have come; what was begun and not ended
//! leaves nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use connectrpc::{ConnectError, InboundStream};
use n0_future::StreamExt as _;
use peat_blobapi::blob::{self, oneof::send_stream_request::Part};
use peat_blobcore::content::{Content, Spool};
use peat_blobcore::model::RelativePath;
use peat_blobcore::{Error, ErrorKind, Sent, Streamed, Terms};

use super::attachments::new_bundle;
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
    let request = convert::request("stream".into(), &options, config.default_priority)?;
    let mut upload = Upload::new(daemon.node.content().clone());
    while let Some(part) = requests.next().await.transpose()? {
        let part = part.to_owned_message().part;
        // Writing may block, on a full page cache for seconds.
        let config = Arc::clone(&config);
        let taken = tokio::task::spawn_blocking(move || upload.take(part, &config).map(|()| upload));
        upload = taken.await.map_err(|_| failed(Error::Stopped))??;
    }
    upload.end_file();
    if upload.files.is_empty() {
        return Err(invalid("file", "the stream has none"));
    }
    let terms = Terms {
        bundle: request.bundle.unwrap_or_else(|| new_bundle(daemon)),
        scope: request.scope,
        priority: request.priority,
        lifetime: request.lifetime,
        carry: request.carry,
        together: request.together,
    };
    daemon.node.send_streamed(request.root_name, upload.files, terms).await.map_err(failed)
}

/// A stream of files as far as it has come.
struct Upload {
    content: Content,
    /// The file whose bytes are coming.
    current: Option<(blob::StreamedFile, RelativePath, Spool)>,
    files: Vec<Streamed>,
    paths: BTreeSet<String>,
    bytes: u64,
}

impl Upload {
    fn new(content: Content) -> Self {
        Self { content, current: None, files: Vec::new(), paths: BTreeSet::new(), bytes: 0 }
    }

    fn take(&mut self, part: Option<Part>, config: &Config) -> Result<(), ConnectError> {
        match part {
            Some(Part::File(file)) => {
                self.end_file();
                if self.paths.len() >= config.max_files_per_bundle as usize {
                    return Err(too_much(format!("more than {} files", config.max_files_per_bundle), "max_files_per_bundle"));
                }
                self.begin(*file)
            }
            // Says that the caller is still there.
            Some(Part::Chunk(chunk)) if chunk.is_empty() => Ok(()),
            Some(Part::Chunk(chunk)) => {
                let Some((_, _, spool)) = &mut self.current else { return Err(invalid("chunk", "a file comes first")) };
                self.bytes += chunk.len() as u64;
                if let Some(most) = config.max_bundle_bytes.filter(|most| self.bytes > *most) {
                    return Err(too_much(format!("more than {most} bytes"), "max_bundle_bytes"));
                }
                spool.write(&chunk).map_err(failed)
            }
            Some(Part::Options(_)) => Err(invalid("options", "they come once")),
            None => Err(invalid("part", "it is of no kind that this version knows")),
        }
    }

    fn begin(&mut self, file: blob::StreamedFile) -> Result<(), ConnectError> {
        let name = String::from_utf8_lossy(&file.path);
        let path = RelativePath::parse(&file.path).map_err(|error| invalid("file.path", format_args!("{name:?}: {error}")))?;
        self.make_room(path.as_str())?;
        self.paths.insert(path.as_str().to_owned());
        let spool = self.content.spool().map_err(failed)?;
        self.current = Some((file, path, spool));
        Ok(())
    }

    /// Refuses a path that comes twice, or at which one is a file and the other a directory.
    fn make_room(&self, path: &str) -> Result<(), ConnectError> {
        if self.paths.contains(path) {
            return Err(invalid("file.path", format_args!("{path:?} comes twice")));
        }
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        let beneath = format!("{path}/");
        let child = self.paths.range(beneath.clone()..).next().filter(|other| other.starts_with(&beneath));
        match parents.filter_map(|parent| self.paths.get(parent)).next().or(child) {
            Some(other) => Err(invalid("file.path", format_args!("{path:?} and {other:?}: one lies beneath the other"))),
            None => Ok(()),
        }
    }

    fn end_file(&mut self) {
        let Some((file, path, spool)) = self.current.take() else { return };
        let mode = if file.mode == 0 { 0o644 } else { file.mode & 0o777 };
        let mtime = if file.mtime > 0 { file.mtime } else { now() };
        let content_type = Some(file.content_type).filter(|kind| !kind.is_empty());
        self.files.push(Streamed { path, mode, mtime, content_type, bytes: spool.end() });
    }
}

/// Milliseconds since the Unix epoch.
fn now() -> i64 {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn too_much(what: String, setting: &str) -> ConnectError {
    too_many(what, &format!("send less at a time, or raise {setting}"))
}

/// There is no room for more.
pub(super) fn too_many(what: String, hint: &str) -> ConnectError {
    let mut error = answer(ErrorKind::Refused, what, Some(hint.to_owned()));
    error.code = connectrpc::ErrorCode::ResourceExhausted;
    error
}
