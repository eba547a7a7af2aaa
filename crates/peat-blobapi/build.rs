//! Compiles the contract to Rust, without a protobuf compiler on the machine, and describes it for clients that ask for it.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use protox::prost_reflect::DescriptorPool;

const FILES: [&str; 7] = [
    "peat/sidecar/v1/sidecar.proto",
    "peat/blob/v1/blob.proto",
    "peat/blob/v1/image.proto",
    "peat/blob/v1/store.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let set = out.join("contract.binpb");
    std::fs::write(&set, compiler.encode_file_descriptor_set())?;
    connectrpc_build::Config::new()
        .files(&FILES)
        .descriptor_set(set)
        .include_file("contract.rs")
        .emit_rerun_directives(false)
        .compile()?;
    describe(&compiler.descriptor_pool(), &out)
}

/// Writes the expression that `reflection.rs` includes: the files, each with what it names.
fn describe(pool: &DescriptorPool, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut code = String::from("&[");
    for (index, file) in pool.files().enumerate() {
        let descriptor = out.join(format!("file{index}.binpb"));
        std::fs::write(&descriptor, file.encode_to_vec())?;
        let imports: Vec<_> = file.dependencies().map(|import| import.name().to_owned()).collect();
        let services: Vec<_> = file.services().map(|service| service.full_name().to_owned()).collect();
        let methods =
            file.services().flat_map(|service| service.methods().map(|it| it.full_name().to_owned()).collect::<Vec<_>>());
        let messages = pool.all_messages().filter(|it| it.parent_file() == file).map(|it| it.full_name().to_owned());
        let enums = pool.all_enums().filter(|it| it.parent_file() == file).map(|it| it.full_name().to_owned());
        let symbols: Vec<_> = services.iter().cloned().chain(methods).chain(messages).chain(enums).collect();
        let path = descriptor.to_str().ok_or("the build directory is not UTF-8")?;
        write!(code, "File {{ name: {:?}, imports: &{imports:?}, services: &{services:?}, ", file.name())?;
        write!(code, "symbols: &{symbols:?}, descriptor: include_bytes!({path:?}) }},")?;
    }
    code.push(']');
    Ok(std::fs::write(out.join("files.rs"), code)?)
}
