//! Compiles the contract to Rust, without a protobuf compiler on the machine.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 2] = ["peat/sidecar/v1/sidecar.proto", "peat/blob/v1/blob.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let set = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("contract.binpb");
    let compiled = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .encode_file_descriptor_set();
    std::fs::write(&set, compiled)?;
    connectrpc_build::Config::new()
        .files(&FILES)
        .descriptor_set(set)
        .include_file("contract.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
