//! Writes the seeds of every fuzz target into `fuzz/corpus`, each under the hash of its content.

use std::path::Path;

use peat_blob_tests::fuzzing::{TARGETS, seeds::seeds};

fn main() -> std::io::Result<()> {
    for (target, _) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        std::fs::create_dir_all(&directory)?;
        for seed in seeds(target) {
            let name = &blake3::hash(&seed).to_hex()[..40];
            std::fs::write(directory.join(name), seed)?;
        }
    }
    Ok(())
}
