//! What watched outboxes have sent, for good: it outlives documents and restarts. Losing it costs that files are sent again.

use redb::{ReadableTable as _, TableDefinition};

use super::error::ExchangeError;
use super::ledger::{Ledger, parse};
use super::look::Print;
use crate::model::{BlobHash, Timestamp, encode};

/// Root and path to [`SentFile`].
pub(super) const SENT: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("sent v1");
/// Root, bundle and path to [`SentFile`]: what is about to be sent, and is sent once there is a distribution of that bundle. Of a file
/// that is gone it is that which is told, and the file is forgotten then: should it come back, it is a new one.
pub(super) const SENDING: TableDefinition<'_, (&str, &str, &[u8]), &[u8]> = TableDefinition::new("sending v1");

/// A file as it was sent last.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(crate) struct SentFile {
    /// Its metadata then, or since it was last found to have the same content.
    #[n(0)]
    pub(super) print: Print,
    /// Its content.
    #[n(1)]
    pub(crate) blob: BlobHash,
    /// When it was first missed, if it is not there.
    #[n(2)]
    pub(super) gone: Option<Timestamp>,
    /// Whether it lay beneath a mount that was beneath the root.
    #[n(3)]
    pub(super) mounted: Option<bool>,
}

impl Ledger {
    /// What was sent from a root under some paths.
    pub(crate) fn sent_files<'a>(
        &self,
        root: &str,
        paths: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Option<SentFile>>, ExchangeError> {
        self.read(|read| {
            let sent = read.open_table(SENT)?;
            paths.map(|path| sent.get((root, path))?.map(|bytes| parse(bytes.value())).transpose()).collect()
        })
    }

    /// How many of the files that were sent from a root are still there, as far as is known.
    pub(super) fn count_sent(&self, root: &str) -> Result<u64, ExchangeError> {
        let mut count = 0;
        self.each_sent(root, |_, file| {
            count += u64::from(file.gone.is_none());
        })?;
        Ok(count)
    }

    /// Calls `each` for every file that was sent from a root.
    pub(super) fn each_sent(&self, root: &str, mut each: impl FnMut(&[u8], SentFile)) -> Result<(), ExchangeError> {
        self.read(|read| {
            let sent = read.open_table(SENT)?;
            for row in sent.range((root, &[][..])..)? {
                let (key, bytes) = row?;
                let (of, path) = key.value();
                if of != root {
                    break;
                }
                each(path, parse(bytes.value())?);
            }
            Ok(())
        })
    }

    /// Remembers files as they are now; those without one are forgotten.
    pub(crate) fn note_sent(&self, root: &str, files: &[(Vec<u8>, Option<SentFile>)]) -> Result<(), ExchangeError> {
        if files.is_empty() {
            return Ok(());
        }
        self.write(|write| {
            let mut sent = write.open_table(SENT)?;
            for (path, file) in files {
                match file {
                    Some(file) => _ = sent.insert((root, path.as_slice()), &*encode(file))?,
                    None => _ = sent.remove((root, path.as_slice()))?,
                }
            }
            Ok(())
        })
    }

    /// Whether another root has sent a file of this path, and has it still.
    pub(crate) fn is_sent_from_another(&self, root: &str, path: &[u8]) -> Result<bool, ExchangeError> {
        self.read(|read| {
            let sent = read.open_table(SENT)?;
            let mut next = sent.first()?.map(|(key, _)| key.value().0.to_owned());
            while let Some(other) = next {
                if other != root
                    && let Some(bytes) = sent.get((other.as_str(), path))?
                    && parse::<SentFile>(bytes.value())?.gone.is_none()
                {
                    return Ok(true);
                }
                // The least name that is greater: roots are few, and what they sent is not.
                let beyond = format!("{other}\0");
                next = sent.range((beyond.as_str(), &[][..])..)?.next().transpose()?.map(|(key, _)| key.value().0.to_owned());
            }
            Ok(false)
        })
    }

    /// Notes what a bundle is about to send from a root.
    pub(crate) fn begin_sending(&self, root: &str, bundle: &str, files: &[(Vec<u8>, SentFile)]) -> Result<(), ExchangeError> {
        self.write(|write| {
            let mut sending = write.open_table(SENDING)?;
            for (path, file) in files {
                sending.insert((root, bundle, path.as_slice()), &*encode(file))?;
            }
            Ok(())
        })
    }

    /// Ends it: what was about to be sent has been, or has not.
    pub(crate) fn end_sending(&self, root: &str, bundle: &str, was_sent: bool) -> Result<(), ExchangeError> {
        self.write(|write| {
            let mut sending = write.open_table(SENDING)?;
            let mut sent = write.open_table(SENT)?;
            let mut ended = Vec::new();
            for row in sending.range((root, bundle, &[][..])..)? {
                let (key, bytes) = row?;
                let (of, by, path) = key.value();
                if (of, by) != (root, bundle) {
                    break;
                }
                match parse::<SentFile>(bytes.value())?.gone {
                    _ if !was_sent => {}
                    None => _ = sent.insert((root, path), bytes.value())?,
                    Some(_) => _ = sent.remove((root, path))?,
                }
                ended.push(path.to_vec());
            }
            for path in ended {
                sending.remove((root, bundle, path.as_slice()))?;
            }
            Ok(())
        })
    }

    /// The bundles that were about to be sent from a root when the process ended.
    pub(crate) fn unfinished_sending(&self, root: &str) -> Result<Vec<String>, ExchangeError> {
        self.read(|read| {
            let mut bundles: Vec<String> = Vec::new();
            for row in read.open_table(SENDING)?.range((root, "", &[][..])..)? {
                let (key, _) = row?;
                let (of, bundle, _) = key.value();
                if of != root {
                    break;
                }
                if bundles.last().is_none_or(|last| last != bundle) {
                    bundles.push(bundle.to_owned());
                }
            }
            Ok(bundles)
        })
    }
}
