//! `<name>.peat.json` beside a file: what its distribution says of it. It is written in the batch of its file and replaced with
//! it. Must never take a name that anything else has: a file of a sender or of the user under that name stays, and there is no
//! sidecar then. A sidecar that cannot be written holds no file back.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde_json::json;

use super::batch::{Job, tolerate};
use super::beneath::Dirs;
use super::error::ExchangeError;
use super::inbox::InboxPolicy;
use super::ledger::{Ledger, Record};
use super::look::{There, look};
use super::name;
use crate::model::{BlobHash, RelativePath, Timestamp};

/// What is behind the name of the file.
pub(super) const SUFFIX: &str = ".peat.json";

/// A sidecar that is to get its name.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) path: String,
    /// Of its temporary file; none where an equal one is there.
    pub(super) number: Option<u64>,
    pub(super) record: Record,
    /// What was written under that name before.
    pub(super) last: Option<Record>,
    bytes: Vec<u8>,
    /// Who may read it: whoever may read the file.
    mode: u32,
}

/// The sidecars of these jobs, where they may have one.
pub(super) fn plan(
    dirs: &mut Dirs,
    ledger: &Ledger,
    policy: InboxPolicy,
    jobs: &[Job<'_>],
    wanted: &[bool],
    first: u64,
) -> Result<Vec<Option<Sidecar>>, ExchangeError> {
    let taken: BTreeSet<&str> = jobs.iter().map(|job| job.path.as_str()).collect();
    let paths: Vec<Option<String>> = jobs
        .iter()
        .zip(wanted)
        .map(|(job, wanted)| {
            let path = format!("{}{SUFFIX}", job.path.as_str());
            (*wanted && !taken.contains(path.as_str()) && RelativePath::parse(path.as_bytes()).is_ok()).then_some(path)
        })
        .collect();
    let last = ledger.records(paths.iter().map(|path| path.as_deref().unwrap_or_default()))?;
    let planned = jobs.iter().enumerate().zip(paths.into_iter().zip(last));
    let decide = |((n, job), (path, last))| decide(dirs, policy, job, path?, last, first.wrapping_add(n as u64));
    Ok(planned.map(decide).collect())
}

fn decide(
    dirs: &mut Dirs,
    policy: InboxPolicy,
    job: &Job<'_>,
    path: String,
    last: Option<Record>,
    number: u64,
) -> Option<Sidecar> {
    if last.as_ref().is_some_and(|last| last.sidecar.is_none()) {
        return None;
    }
    let bytes = describe(job);
    let (size, blob) = (bytes.len() as u64, BlobHash::from_bytes(*blake3::hash(&bytes).as_bytes()));
    let record = Record { blob, size, print: None, sidecar: Some(true), ..job.record(None) };
    let there = match dirs.find(&path) {
        Ok(Some(dir)) => look(&dir, name::split(&path).1, last.as_ref(), size, &blob).ok()?,
        Ok(None) => There::Nothing,
        Err(_) => return None,
    };
    let (number, print) = match there {
        There::Nothing | There::Ours => (Some(number), None),
        There::Equal { print, .. } => {
            dirs.touch(&path);
            (None, Some(print))
        }
        There::Directory | There::Theirs => return None,
    };
    let mode = job.entry.mode & policy.mode & 0o666;
    Some(Sidecar { path, number, record: Record { print, ..record }, last, bytes, mode })
}

/// What is known of the file, as JSON with a newline.
fn describe(job: &Job<'_>) -> Vec<u8> {
    let (delivery, entry) = (job.delivery, job.entry);
    let mtime = u64::try_from(entry.mtime).ok().map(|millis| Timestamp::from_millis(millis).to_string());
    let described = json!({
        "version": 1,
        "distribution": delivery.id.to_string(),
        "index": job.index,
        "sender": delivery.sender.to_string(),
        "bundle": delivery.bundle,
        "priority": delivery.priority.to_string(),
        "made_at": delivery.made_at.to_string(),
        "path": job.path.as_str(),
        "root": entry.root,
        "relative_path": String::from_utf8_lossy(&entry.path),
        "size": entry.size,
        "blake3": entry.blob.to_string(),
        "sha256": entry.sha256.to_string(),
        "mode": format!("{:04o}", entry.mode & 0o7777),
        "mtime": mtime,
        "content_type": entry.content_type,
        "display_name": entry.display_name,
    });
    format!("{described:#}\n").into_bytes()
}

/// Fills its temporary file.
pub(super) fn write(dirs: &mut Dirs, sidecar: &Sidecar, number: u64, sync: bool) -> io::Result<()> {
    let dir = dirs.make(&sidecar.path).map_err(io::Error::other)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(&dir.fd, name::temp(number), flags, Mode::from_raw_mode(0o600))?);
    file.write_all(&sidecar.bytes)?;
    tolerate(fs::fchmod(&file, Mode::from_raw_mode(sidecar.mode)))?;
    if sync || dir.dev != dirs.root().dev {
        file.sync_all()?;
    }
    Ok(())
}

/// Removes sidecars whose file the user has removed, where they are as they were written.
pub(super) fn sweep(dirs: &mut Dirs, ledger: &Ledger) -> Result<(), ExchangeError> {
    let mut gone = Vec::new();
    for (path, record) in ledger.sidecars()? {
        let Ok(Some(dir)) = dirs.find(&path) else { continue };
        let name = name::split(&path).1;
        let Some(of) = name.strip_suffix(SUFFIX) else { continue };
        if matches!(fs::statat(&dir.fd, of, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
            && !matches!(
                look(&dir, name, Some(&record), record.size, &record.blob),
                Ok(There::Theirs | There::Directory) | Err(_)
            )
            && dir.remove(name).is_ok()
        {
            gone.push(path);
        }
    }
    ledger.forget_paths(&gone)
}
