//! Taking a file in, against the slower of what it must at least do: SHA-256 of its bytes, and a durable copy of them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{self, Content};
use sha2::{Digest as _, Sha256};

use crate::measure::{MIB, timed, write_noise};
use crate::table::Row;
use crate::{Options, Outcome};

/// Measures all three by turns, on a file that is in the page cache.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Row>> {
    let directory = options.temporary()?;
    let source = directory.path().join("source");
    write_noise(&source, options.large, 1)?;
    let mib = options.large as f64 / MIB;
    let (mut ours, mut sha256, mut copy, mut limit) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..options.runs {
        let (hash_rate, copy_rate) =
            (mib / timed(|| hash(&source))?.0, mib / timed(|| copy_durably(&source, directory.path()))?.0);
        let store = directory.path().join(run.to_string());
        let content = Content::open(&store, content::Options::default(), Arc::new(SystemClock))?;
        let (seconds, _) = timed(|| Ok(content.ingest_path(&source, &mut |_| ControlFlow::Continue(()))?))?;
        content.close()?;
        std::fs::remove_dir_all(&store)?;
        ours.push(mib / seconds);
        sha256.push(hash_rate);
        copy.push(copy_rate);
        limit.push(hash_rate.min(copy_rate));
    }
    let what = format!("one file of {mib:.0} MiB, durable");
    Ok(vec![
        Row::pairs(what, "MiB/s", &ours, "the slower of the next two", &limit),
        Row::pairs("the same", "MiB/s", &ours, "SHA-256 on one core", &sha256),
        Row::pairs("the same", "MiB/s", &ours, "copy and fsync", &copy),
    ])
}

fn hash(source: &Path) -> Outcome<()> {
    let (mut file, mut hasher, mut buffer) = (File::open(source)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    std::hint::black_box(hasher.finalize());
    Ok(())
}

fn copy_durably(source: &Path, directory: &Path) -> Outcome<()> {
    let path = directory.join("copy");
    let (mut file, mut copy, mut buffer) = (File::open(source)?, File::create(&path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => copy.write_all(&buffer[..read])?,
        }
    }
    copy.sync_all()?;
    Ok(std::fs::remove_file(&path)?)
}
