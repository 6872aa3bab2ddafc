//! The desktop files of a session: which there are, and by which id each is known.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::watch::Watch;

/// Folders in folders.
const DEEPEST: usize = 8;
/// Desktop files of all folders together.
const MOST_FILES: usize = 1 << 14;
/// Entries of one folder.
const MOST_ENTRIES: usize = 1 << 15;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Each id's file: the first one found, in the order of the folders.
    pub(super) paths: BTreeMap<String, PathBuf>,
    /// Files that were not looked at: too many, or of a name that is no text.
    pub(super) left_out: usize,
    /// Device and number of the folders that have been read: links make no circles.
    read: BTreeSet<(u64, u64)>,
}

impl Files {
    /// Finds those in `applications` under the folders of data, and watches all these places.
    pub(super) fn find(data: &[PathBuf], watch: &mut Watch) -> Self {
        let mut files = Self::default();
        for folder in data {
            files.folder(&folder.join("applications"), "", 0, watch);
        }
        files
    }

    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize, watch: &mut Watch) {
        let known = folder.metadata().ok().map(|folder| (folder.dev(), folder.ino()));
        if known.is_some_and(|known| !self.read.insert(known)) {
            return;
        }
        watch.folder(folder);
        let Ok(entries) = folder.read_dir() else { return };
        let mut names = Vec::new();
        for (number, entry) in entries.flatten().enumerate() {
            match entry.file_name().into_string() {
                Ok(name) if number < MOST_ENTRIES => names.push(name),
                _ => self.left_out += 1,
            }
        }
        names.sort_unstable();
        let mut folders = Vec::new();
        for name in names {
            let path = folder.join(&name);
            if path.is_dir() {
                folders.push((name, path));
            } else if let Some(id) = name.strip_suffix(".desktop") {
                let id = format!("{prefix}{id}");
                if self.paths.len() < MOST_FILES || self.paths.contains_key(&id) {
                    self.paths.entry(id).or_insert(path);
                } else {
                    self.left_out += 1;
                }
            }
        }
        for (name, path) in folders {
            if depth < DEEPEST {
                self.folder(&path, &format!("{prefix}{name}-"), depth + 1, watch);
            } else {
                self.left_out += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn ids_are_paths_with_dashes_and_the_first_folder_counts() {
        let home = tempfile::tempdir().unwrap();
        let data = [home.path().join("a"), home.path().join("b"), home.path().join("none")];
        let file = |path: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let expected = [
            ("both", file("a/applications/both.desktop")),
            ("kde-tool", file("b/applications/kde/tool.desktop")),
            ("linked", home.path().join("b/applications/linked.desktop")),
            ("only", file("b/applications/only.desktop")),
        ];
        file("b/applications/both.desktop");
        file("b/applications/list.txt");
        std::os::unix::fs::symlink(&expected[0].1, &expected[2].1).unwrap();
        // Circles, and a name that is no text.
        std::os::unix::fs::symlink("..", home.path().join("a/applications/up")).unwrap();
        std::os::unix::fs::symlink(".", home.path().join("b/applications/same")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"\xff.desktop");
        std::fs::write(data[0].join("applications").join(odd), "").unwrap();
        let found = Files::find(&data, &mut Watch::new());
        let reached: Vec<_> =
            found.paths.iter().map(|(id, path)| (id.as_str(), path.clone())).collect();
        // `up` leads to the folder that contains `applications`, which is a folder like others.
        assert_eq!(reached, expected);
        assert_eq!(found.left_out, 1);
        let deep = data[0].join("applications").join("d/".repeat(20));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("x.desktop"), "").unwrap();
        assert_eq!(Files::find(&data, &mut Watch::new()).left_out, 2);
    }
}
