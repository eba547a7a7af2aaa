//! A test file that nobody names is never run.

#[test]
fn every_file_beside_main_is_a_module_of_it() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(directory.join("main.rs")).expect("readable");
    for entry in std::fs::read_dir(&directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        assert!(name == "main" || main.contains(&format!("mod {name};")), "main.rs does not name {name}");
    }
}
