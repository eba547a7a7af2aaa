//! What fuzzing found worth keeping, as plain tests.

use std::path::Path;

use peat_blob_tests::fuzzing::TARGETS;

#[test]
fn every_input_of_every_corpus_keeps_the_laws() {
    for (target, run) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut inputs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", directory.display());
        for input in inputs {
            let bytes = std::fs::read(&input).expect("readable");
            if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
                eprintln!("the input is {}", input.display());
                std::panic::resume_unwind(panic);
            }
        }
    }
}
