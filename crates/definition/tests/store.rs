//! Definition files are whole, whatever happens while they are written.

use definition::{Existing, Store, StoreError, write_atomically};
use std::fs;
use std::process::Command;

const A: &str = "# mine\nname = \"a\"\nmemory = 64\ncpus = 1\n";

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    (folder, store)
}

fn files(folder: &tempfile::TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_definition_is_kept_as_written_until_removed() {
    let (folder, store) = store();
    store.create(A).unwrap();
    assert_eq!(store.text("a").unwrap(), A);
    assert_eq!(store.names().unwrap(), ["a"]);
    let changed = A.replace("64", "128");
    store.replace("a", &changed).unwrap();
    assert_eq!(store.load("a").unwrap().memory, 128);
    store.remove("a").unwrap();
    assert!(files(&folder).is_empty());
    assert!(matches!(store.load("a"), Err(StoreError::Unknown { .. })));
}

#[test]
fn a_refused_definition_leaves_nothing_and_changes_nothing() {
    let (folder, store) = store();
    assert!(store.create("name = \"a\"").is_err());
    assert!(files(&folder).is_empty());
    store.create(A).unwrap();
    assert!(matches!(store.create(A), Err(StoreError::Taken { .. })));
    assert!(store.replace("a", "memory = ").is_err());
    assert!(matches!(
        store.replace("a", &A.replace("\"a\"", "\"b\"")),
        Err(StoreError::NameDiffers { .. })
    ));
    assert!(matches!(store.replace("b", A), Err(StoreError::Unknown { .. })));
    assert_eq!(store.text("a").unwrap(), A);
    assert_eq!(files(&folder), ["a.toml"]);
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let (_folder, store) = store();
    for name in ["../a", "/etc/passwd", "a/../../b", ".", ""] {
        assert!(matches!(store.text(name), Err(StoreError::Name(_))), "{name}");
        assert!(matches!(store.remove(name), Err(StoreError::Name(_))), "{name}");
    }
}

const LIMITED: &str = "DEFINITION_TEST_FULL_DISK";

/// Runs itself again under a file size limit of one block, where a longer write fails half-way as
/// on a full disk.
#[test]
fn a_full_disk_leaves_the_old_file_and_says_so() {
    if let Some(folder) = std::env::var_os(LIMITED) {
        let path = std::path::Path::new(&folder).join("a.toml");
        let long = A.replace("mine", &"x".repeat(8192));
        let error = write_atomically(&path, long.as_bytes(), Existing::Replace).unwrap_err();
        println!("{error}");
        return;
    }
    let (folder, store) = store();
    store.create(A).unwrap();
    // SIGXFSZ ignored, so that the write fails instead of ending the process.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_full_disk_leaves_the_old_file_and_says_so", "--nocapture"])
        .env(LIMITED, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("cannot write") && said.contains("nothing was changed"), "{said}");
    assert_eq!(store.text("a").unwrap(), A);
    assert_eq!(files(&folder), ["a.toml"]);
}
