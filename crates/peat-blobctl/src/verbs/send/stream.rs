//! Sending bytes: the files are read here and go to the daemon as a stream. A stream that breaks for any reason never looks
//! like one that has ended: what came of it is then forgotten by the daemon.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use connectrpc::client::Stream;
use peat_blobapi::blob::send_stream_request::Part;
use peat_blobapi::blob::{SendOptions, SendResponse, SendStreamRequest, Skipped, StreamedFile};
use peat_blobcore::exchange::{Found, Outbox};
use tokio::sync::mpsc;

use crate::daemon::{Daemon, answer};
use crate::failure::{Failure, Kind};
use crate::show;
use crate::verbs::awake::Awake;

/// Bytes of a part.
const CHUNK_BYTES: usize = 256 * 1024;
/// Parts that wait for the connection.
const WAITING_PARTS: usize = 4;

/// The parts; `None` is the end.
struct Parts(mpsc::Receiver<Option<SendStreamRequest>>);

impl Stream for Parts {
    type Item = SendStreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.poll_recv(context) {
            Poll::Ready(Some(part)) => Poll::Ready(part),
            // The reader failed. Never ready again, so that the call can only be dropped.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Streams what is at `path`, or standard input under the path `name`.
pub(super) async fn run(daemon: &Daemon, path: &Path, name: Option<&str>, options: SendOptions) -> Result<SendResponse, Failure> {
    let (parts, receiver) = mpsc::channel(WAITING_PARTS);
    let (path, name) = (path.to_owned(), name.map(str::to_owned));
    let reader = tokio::task::spawn_blocking(move || {
        let feed = Feed(parts);
        feed.part(Part::Options(options.into()))?;
        let skipped = match name {
            Some(name) => feed.standard_input(&name)?,
            None => feed.files(&path)?,
        };
        feed.put(None)?;
        Ok::<_, Failure>(skipped)
    });
    let call = daemon.client.send_stream(Awake::new(Parts(receiver), || part(Part::Chunk(Vec::new()))));
    tokio::pin!(call, reader);
    let (read, early) = tokio::select! {
        read = &mut reader => (read, None),
        sent = &mut call => {
            let sent = answer(sent)?;
            (reader.await, Some(sent))
        }
    };
    let skipped = match read.map_err(|error| Failure::new(Kind::FAILED, format!("the reader ended badly: {error}")))? {
        Ok(skipped) => skipped,
        // The daemon has ended the call; the call says why.
        Err(failure) if failure.kind == Kind::UNREACHABLE => return answer(call.await).and(Err(failure)),
        Err(failure) => return Err(failure),
    };
    let mut sent = match early {
        Some(sent) => sent,
        None => answer(call.await)?,
    };
    sent.skipped.extend(skipped);
    Ok(sent)
}

fn part(part: Part) -> SendStreamRequest {
    SendStreamRequest { part: Some(part), ..Default::default() }
}

/// Where the parts go.
struct Feed(mpsc::Sender<Option<SendStreamRequest>>);

impl Feed {
    fn part(&self, part: Part) -> Result<(), Failure> {
        self.put(Some(self::part(part)))
    }

    fn put(&self, part: Option<SendStreamRequest>) -> Result<(), Failure> {
        self.0.blocking_send(part).map_err(|_| Failure::new(Kind::UNREACHABLE, "the daemon ended the call"))
    }

    fn standard_input(&self, name: &str) -> Result<Vec<Skipped>, Failure> {
        let file = StreamedFile { path: name.as_bytes().to_vec(), ..Default::default() };
        self.part(Part::File(file.into()))?;
        self.bytes(&mut std::io::stdin().lock(), "standard input")?;
        Ok(Vec::new())
    }

    /// Every file of a directory, or the one that is named.
    fn files(&self, path: &Path) -> Result<Vec<Skipped>, Failure> {
        let core = |error: peat_blobcore::exchange::ExchangeError| Failure::from(peat_blobcore::Error::from(error));
        let path = path.canonicalize().map_err(Failure::io(format!("cannot send {}", path.display())))?;
        let walk = match (path.is_dir(), path.parent(), path.file_name()) {
            (false, Some(parent), Some(name)) => Outbox::open(parent).map_err(core)?.paths(&[name.as_encoded_bytes()]),
            _ => Outbox::open(&path).map_err(core)?.everything(),
        };
        let (mut skipped, mut sent) = (Vec::new(), 0_u64);
        for found in walk {
            let collected = match found {
                Found::File(collected) => collected,
                Found::Skipped { path, reason } => {
                    skipped.push(Skipped { path, reason: reason.to_string(), ..Default::default() });
                    continue;
                }
            };
            let mut file: File = match collected.open() {
                Ok(file) => file,
                Err(error) => {
                    skipped.push(Skipped { path: collected.path, reason: error.to_string(), ..Default::default() });
                    continue;
                }
            };
            self.part(Part::File(
                StreamedFile { path: collected.path.clone(), mode: collected.mode, mtime: collected.mtime, ..Default::default() }
                    .into(),
            ))?;
            self.bytes(&mut file, &show::path(&collected.path))?;
            // Its beginning has gone out already: the whole call is given up rather than a mixture sent.
            collected.check(&file).map_err(core)?;
            sent += 1;
        }
        if sent == 0 {
            let reason = skipped.first().map_or_else(
                || format!("{} has no files", path.display()),
                |first| format!("{}: {}", show::path(&first.path), first.reason),
            );
            return Err(peat_blobcore::Error::NothingToSend(reason).into());
        }
        Ok(skipped)
    }

    fn bytes(&self, from: &mut impl Read, what: &str) -> Result<(), Failure> {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            from.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(Failure::io(format!("cannot read {what}")))?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.part(Part::Chunk(chunk))?;
        }
    }
}
