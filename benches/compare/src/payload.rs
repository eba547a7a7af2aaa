//! The bytes that are carried: made anew for each run, and compared in the end.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::work::{Task, Work};

/// Makes them in an empty directory: what is to be sent, a file of it or the whole.
pub(crate) fn make(work: &Work, outbox: &Path) -> Outcome<PathBuf> {
    let payload = match work.task {
        Task::Files(count) => {
            for index in 0..count {
                random(&outbox.join(format!("{index:05}.bin")), work.size / u64::from(count))?;
            }
            outbox.to_owned()
        }
        Task::Image(_) => {
            image(outbox, work.size)?;
            outbox.to_owned()
        }
        _ => {
            let file = outbox.join("payload.bin");
            random(&file, work.size)?;
            file
        }
    };
    settle(outbox)?;
    Ok(payload)
}

/// Makes a new version of a file: twenty times a bit more, here and there. It is another file of the same name, so that links to
/// the old one stay what they are.
pub(crate) fn renew(file: &Path) -> Outcome<()> {
    let old = fs::read(file)?;
    let fresh = file.with_extension("new");
    let mut new = io::BufWriter::new(File::create(&fresh)?);
    let mut more = File::open("/dev/urandom")?.take(0);
    for part in old.chunks(old.len().div_ceil(INSERTIONS)) {
        let (before, after) = part.split_at(part.len() / 3);
        new.write_all(before)?;
        more.set_limit(INSERTED);
        io::copy(&mut more, &mut new)?;
        new.write_all(after)?;
    }
    new.into_inner()?.sync_all()?;
    Ok(fs::rename(fresh, file)?)
}

/// How many insertions a new version has, and how many bytes each.
const INSERTIONS: usize = 20;
const INSERTED: u64 = 33_554;

/// Whether an inbox has every file of an outbox, byte for byte. Of an image the blobs count: the index is the tool's own.
pub(crate) fn same(work: &Work, outbox: &Path, inbox: &Path) -> Outcome<bool> {
    let beneath = if matches!(work.task, Task::Image(_)) { "blobs/sha256" } else { "" };
    for entry in fs::read_dir(outbox.join(beneath))? {
        let entry = entry?;
        if !equal(&entry.path(), &inbox.join(beneath).join(entry.file_name()))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file with the length of another is where it should be: what a tool that makes a file under its name only when it is
/// whole has delivered.
pub(crate) fn arrived(sent: &Path, received: &Path) -> bool {
    matches!((fs::metadata(sent), fs::metadata(received)), (Ok(sent), Ok(received)) if sent.len() == received.len())
}

fn random(path: &Path, size: u64) -> io::Result<()> {
    io::copy(&mut File::open("/dev/urandom")?.take(size), &mut File::create(path)?).map(|_| ())
}

/// What is not yet on the disk would be written in the timed step.
fn settle(directory: &Path) -> Outcome<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}

/// An OCI layout of an image with three layers, gzipped archives of random bytes.
fn image(directory: &Path, size: u64) -> Outcome<()> {
    let script = r#"
        set -eu
        mkdir -p blobs/sha256
        digest() { sha256sum "$1" | cut -d' ' -f1; }
        keep() { set -- "$1" "$(digest "$1")"; mv "$1" "blobs/sha256/$2"; echo "$2"; }
        # A descriptor of one blob, but for its end: its media type and its digest.
        describe() {
            printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s' \
                "$1" "$2" "$(stat -c %s "blobs/sha256/$2")"
        }
        layers= diffs=
        for layer in 1 2 3; do
            head -c "$1" /dev/urandom > layer.bin
            tar -cf layer.tar layer.bin
            diffs="$diffs,\"sha256:$(digest layer.tar)\""
            gzip -1 layer.tar
            layers="$layers,$(describe layer.v1.tar+gzip "$(keep layer.tar.gz)")}"
        done
        rm layer.bin
        printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
            "${diffs#,}" > config
        printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s},"layers":[%s]}' \
            "$(describe config.v1+json "$(keep config)")" "${layers#,}" > manifest
        printf '{"schemaVersion":2,"manifests":[%s,"annotations":{"org.opencontainers.image.ref.name":"1"}}]}' \
            "$(describe manifest.v1+json "$(keep manifest)")" > index.json
        printf '{"imageLayoutVersion":"1.0.0"}' > oci-layout
    "#;
    let made = Command::new("sh").args(["-c", script, "sh", &(size / 3).to_string()]).current_dir(directory).output()?;
    match made.status.success() {
        true => Ok(()),
        false => Err(format!("cannot make an image: {}", String::from_utf8_lossy(&made.stderr)).into()),
    }
}

fn equal(one: &Path, other: &Path) -> Outcome<bool> {
    let opened = File::open(other).map_err(|error| format!("{}: {error}", other.display()))?;
    let (mut one, mut other) = (File::open(one)?, opened);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_has_the_old_bytes_and_twenty_insertions() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("payload.bin");
        random(&file, 100_000).expect("written");
        let old = fs::read(&file).expect("read");
        renew(&file).expect("renewed");
        let new = fs::read(&file).expect("read");
        assert_eq!(new.len(), old.len() + INSERTIONS * INSERTED as usize);
        let part = old.len() / INSERTIONS;
        let kept: Vec<u8> = new
            .chunks(part + INSERTED as usize)
            .flat_map(|chunk| [&chunk[..part / 3], &chunk[part / 3 + INSERTED as usize..]].concat())
            .collect();
        assert!(kept == old);
    }

    #[test]
    fn what_differs_in_one_byte_is_not_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let (outbox, inbox) = (directory.path().join("outbox"), directory.path().join("inbox"));
        for (box_, last) in [(&outbox, 1), (&inbox, 2)] {
            fs::create_dir(box_).expect("made");
            fs::write(box_.join("one"), [0, last]).expect("written");
        }
        let work = crate::work::WORKS[0];
        assert!(!same(&work, &outbox, &inbox).expect("compared"));
        fs::write(inbox.join("one"), [0, 1]).expect("written");
        assert!(same(&work, &outbox, &inbox).expect("compared"));
    }
}
