//! The user's folders of launchers and icons: our files in them come and go, no other is touched.
//!
//! A file is ours when its name begins with [`names::PREFIX`], it is a regular file and no link, and it
//! says in itself that it was made here. What is not ours and has a name that we want stays, and the
//! launcher is missing. A file appears whole, by a rename.

use super::names::{self, PREFIX};
use super::{drawing, entry, picture};
use definition::Places;
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const ENTRY: &str = ".desktop";
/// Most of a file that is looked at.
const LONGEST: u64 = 4 << 20;
/// Where an icon's mark stands at the latest.
const MARK_WITHIN: u64 = 512;

/// See the module.
#[derive(Clone, Debug)]
pub struct Folder {
    entries: PathBuf,
    icons: PathBuf,
}

/// What a change of the entries did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Files written.
    pub written: usize,
    /// Files removed.
    pub removed: usize,
    /// Files of others that have a name of ours.
    pub foreign: usize,
    /// Which types open with what has changed.
    pub types: bool,
}

/// An icon that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Icon {
    /// Pixels.
    Picture(picture::Picture),
    /// Lines.
    Drawing(String),
}

enum Found {
    Nothing,
    Ours(String),
    Foreign,
}

impl Folder {
    /// Those of this user.
    #[must_use]
    pub fn of(places: &Places) -> Self {
        Self { entries: places.launchers(), icons: places.icons() }
    }

    /// Where desktop entries are.
    #[must_use]
    pub fn entries(&self) -> &Path {
        &self.entries
    }

    /// Has the VM's entries be exactly `wanted`, by their names without `.desktop`.
    ///
    /// # Errors
    /// A folder or a file cannot be read or written.
    pub fn set_entries(&self, vm: &str, wanted: &BTreeMap<String, String>) -> io::Result<Done> {
        let mut done = Done::default();
        let prefix = names::prefix(vm);
        for file in names_in(&self.entries, &prefix)? {
            let Some(id) = file.strip_suffix(ENTRY).filter(|id| !wanted.contains_key(*id)) else {
                continue;
            };
            if let Found::Ours(text) = self.entry(id)?
                && entry::owner(&text).is_some_and(|(owner, _)| owner == vm)
            {
                std::fs::remove_file(self.entries.join(&file))?;
                done.removed += 1;
                done.types |= has_types(&text);
            }
        }
        if !wanted.is_empty() {
            std::fs::create_dir_all(&self.entries)?;
        }
        for (id, text) in wanted {
            match self.entry(id)? {
                Found::Ours(old) if old == *text => continue,
                Found::Ours(old) => done.types |= has_types(&old) || has_types(text),
                Found::Nothing => done.types |= has_types(text),
                Found::Foreign => {
                    done.foreign += 1;
                    continue;
                }
            }
            write(&self.entries, &format!("{id}{ENTRY}"), text.as_bytes())?;
            done.written += 1;
        }
        Ok(done)
    }

    fn entry(&self, id: &str) -> io::Result<Found> {
        let Some(bytes) = read(&self.entries.join(format!("{id}{ENTRY}")), LONGEST)? else {
            return Ok(Found::Nothing);
        };
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let ours = text.filter(|text| entry::owner(text).is_some());
        Ok(ours.map_or(Found::Foreign, Found::Ours))
    }

    /// Has application `id` (its name on the host) this icon. False when a file of another has its place.
    ///
    /// # Errors
    /// A folder or a file cannot be written.
    pub fn set_icon(&self, id: &str, icon: &Icon) -> io::Result<bool> {
        let (folder, file, bytes) = match icon {
            Icon::Picture(picture) => (sized(picture.size), format!("{id}.png"), &picture.png[..]),
            Icon::Drawing(text) => (SCALABLE.to_owned(), format!("{id}.svg"), text.as_bytes()),
        };
        let folder = self.icons.join(folder);
        let path = folder.join(&file);
        let written = match read(&path, MARK_WITHIN)? {
            None => true,
            Some(head) => head.is_some_and(|head| is_ours(&head)),
        };
        if written {
            std::fs::create_dir_all(&folder)?;
            write(&folder, &file, bytes)?;
        }
        // One that it had before, of another kind or size.
        for old in self.icons_beginning(id)? {
            if old != path && old.file_stem().is_some_and(|stem| stem == id) {
                std::fs::remove_file(old)?;
            }
        }
        self.touch();
        Ok(written)
    }

    /// The applications of VM `vm` that have an icon, and its bytes.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn icons_of(&self, vm: &str) -> io::Result<BTreeMap<String, u64>> {
        let mut sizes = BTreeMap::new();
        for path in self.icons_beginning(&names::prefix(vm))? {
            if let Some(id) = path.file_stem().and_then(|stem| stem.to_str()) {
                sizes.insert(id.to_owned(), std::fs::symlink_metadata(&path)?.len());
            }
        }
        Ok(sizes)
    }

    /// Removes the VM's icons but those of `kept`.
    ///
    /// # Errors
    /// A folder cannot be read or a file not removed.
    pub fn keep_icons(&self, vm: &str, kept: &BTreeSet<String>) -> io::Result<()> {
        let mut removed = false;
        for path in self.icons_beginning(&names::prefix(vm))? {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if !stem.is_some_and(|stem| kept.contains(stem)) {
                std::fs::remove_file(path)?;
                removed = true;
            }
        }
        if removed {
            self.touch();
        }
        Ok(())
    }

    /// Removes what VMs other than `known` left, and half-written files of a daemon that was killed.
    ///
    /// # Errors
    /// A folder cannot be read or a file not removed.
    pub fn sweep(&self, known: &BTreeSet<String>) -> io::Result<Done> {
        let mut done = Done::default();
        for file in names_in(&self.entries, PREFIX)? {
            let Some(id) = file.strip_suffix(ENTRY) else { continue };
            if let Found::Ours(text) = self.entry(id)?
                && entry::owner(&text).is_some_and(|(vm, _)| !known.contains(&vm))
            {
                std::fs::remove_file(self.entries.join(&file))?;
                done.removed += 1;
                done.types |= has_types(&text);
            }
        }
        let prefixes: Vec<String> = known.iter().map(|vm| names::prefix(vm)).collect();
        for path in self.icons_beginning(PREFIX)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                std::fs::remove_file(path)?;
                done.removed += 1;
            }
        }
        for folder in self.icon_folders().chain([self.entries.clone()]) {
            for file in names_in(&folder, &format!(".{PREFIX}"))? {
                if file.ends_with(UNFINISHED) {
                    std::fs::remove_file(folder.join(file))?;
                }
            }
        }
        Ok(done)
    }

    /// Our icons whose names begin so.
    fn icons_beginning(&self, prefix: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for folder in self.icon_folders() {
            for file in names_in(&folder, prefix)? {
                let path = folder.join(file);
                if let Some(Some(head)) = read(&path, MARK_WITHIN)?
                    && is_ours(&head)
                {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    fn icon_folders(&self) -> impl Iterator<Item = PathBuf> {
        let sizes = picture::SIZES.into_iter().map(sized).chain([SCALABLE.to_owned()]);
        sizes.map(|folder| self.icons.join(folder))
    }

    /// Desktops look at the theme's own folder to see whether something in it is new.
    fn touch(&self) {
        let now = SystemTime::now();
        if let Ok(folder) = File::open(&self.icons) {
            // Seen later otherwise.
            let _ = folder.set_modified(now);
        }
    }
}

const SCALABLE: &str = "scalable/apps";

fn sized(size: u32) -> String {
    format!("{size}x{size}/apps")
}

fn has_types(text: &str) -> bool {
    text.contains("\nMimeType=")
}

fn is_ours(head: &[u8]) -> bool {
    let contains = |mark: &[u8]| head.windows(mark.len()).any(|part| part == mark);
    match head {
        [0x89, b'P', b'N', b'G', ..] => contains(picture::MARK.as_bytes()),
        [b'<', ..] => contains(drawing::MARK.as_bytes()),
        _ => false,
    }
}

/// Names in a folder that begin so, sorted; none of a folder that is not there.
fn names_in(folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with(prefix)
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The first bytes of a regular file; within, nothing of what is no such file or is longer than an entry of
/// ours; nothing at all where there is none.
#[allow(
    clippy::option_option,
    reason = "no file, a file of another kind, and a file are three things"
)]
fn read(path: &Path, most: u64) -> io::Result<Option<Option<Vec<u8>>>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => {
            if !found?.is_file() {
                return Ok(Some(None));
            }
        }
    }
    // Not through a link that has taken its place since.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return Ok(Some(None));
    };
    let mut bytes = Vec::new();
    File::from(file).take(most).read_to_end(&mut bytes)?;
    Ok(Some(Some(bytes)))
}

/// What the names of half-written files end with.
const UNFINISHED: &str = ".new";

fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.{}{UNFINISHED}", std::process::id()));
    let put = || {
        let mut file = File::options();
        file.write(true).create_new(true).mode(0o600).open(&temporary)?.write_all(bytes)?;
        std::fs::rename(&temporary, folder.join(name))
    };
    put().inspect_err(|_| {
        // One that was left there is in the way only once.
        let _ = std::fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::untrusted::Untrusted;
    use proto::v1::Application;
    use std::os::unix::fs::symlink;

    struct Home {
        _folder: tempfile::TempDir,
        folder: Folder,
    }

    impl Home {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let folder = Folder {
                entries: home.path().join("applications"),
                icons: home.path().join("hicolor"),
            };
            Self { _folder: home, folder }
        }

        fn names(&self) -> Vec<String> {
            names_in(&self.folder.entries, "").unwrap()
        }

        /// All files below the icons' folder.
        fn icons(&self) -> Vec<PathBuf> {
            let all = self.folder.icon_folders().flat_map(|folder| {
                let names = names_in(&folder, "").unwrap();
                names.into_iter().map(move |name| folder.join(name))
            });
            all.map(|path| path.strip_prefix(&self.folder.icons).unwrap().to_owned()).collect()
        }
    }

    fn wanted(vm: &str, ids: &[&str]) -> BTreeMap<String, String> {
        let one = |id: &&str| {
            let application = Application {
                id: (*id).to_owned(),
                opens: true,
                mime_types: vec!["text/plain".into()],
                ..Application::default()
            };
            let entry = entry::Entry {
                vm,
                application: &application,
                program: "/cli",
                open_with: true,
                icon: false,
            };
            (names::host_id(vm, id), entry.text().unwrap())
        };
        ids.iter().map(one).collect()
    }

    fn picture(size: u32) -> Icon {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, size, size);
        encoder.set_color(png::ColorType::Rgba);
        let pixels = vec![1; (size * size * 4) as usize];
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        Icon::Picture(picture::check(Untrusted::new(png)).unwrap())
    }

    fn drawing() -> Icon {
        let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec();
        Icon::Drawing(drawing::check(Untrusted::new(svg)).unwrap())
    }

    #[test]
    fn entries_come_and_go_and_only_changed_ones_are_written() {
        let home = Home::new();
        let set = |vm: &str, ids: &[&str]| home.folder.set_entries(vm, &wanted(vm, ids)).unwrap();
        assert_eq!(set("a", &[]), Done::default());
        assert_eq!(set("a", &["x", "y"]), Done { written: 2, types: true, ..Done::default() });
        assert_eq!(set("a", &["x", "y"]), Done::default());
        assert_eq!(set("a b", &["x"]).written, 1);
        assert_eq!(set("a", &["y", "z"]), Done { written: 1, removed: 1, types: true, foreign: 0 });
        let names = ["a.y", "a.z", "a_20b.x"].map(|name| format!("org.macrohard.{name}.desktop"));
        assert_eq!(home.names(), names);
        set("a", &[]);
        assert_eq!(home.names(), [names[2].as_str()]);
    }

    #[test]
    fn files_of_others_are_neither_replaced_nor_removed() {
        let home = Home::new();
        let folder = &home.folder;
        std::fs::create_dir_all(&folder.entries).unwrap();
        let path = |name: &str| folder.entries.join(format!("org.macrohard.a.{name}.desktop"));
        let theirs = "[Desktop Entry]\nType=Application\nName=Mine\nExec=true\n";
        std::fs::write(path("x"), theirs).unwrap();
        let elsewhere = home.folder.icons.with_file_name("elsewhere");
        std::fs::write(&elsewhere, wanted("a", &["y"]).into_values().next().unwrap()).unwrap();
        symlink(&elsewhere, path("y")).unwrap();
        std::fs::create_dir(path("d")).unwrap();
        let done = folder.set_entries("a", &wanted("a", &["x", "y", "z", "d"])).unwrap();
        assert_eq!((done.written, done.foreign), (1, 3));
        assert_eq!(std::fs::read_to_string(path("x")).unwrap(), theirs);
        folder.set_entries("a", &BTreeMap::new()).unwrap();
        folder.sweep(&BTreeSet::new()).unwrap();
        assert_eq!(home.names().len(), 3);
        assert!(elsewhere.exists());
        // One of ours that was moved to another VM's name stays with its maker.
        std::fs::write(path("w"), wanted("b", &["w"]).into_values().next().unwrap()).unwrap();
        folder.set_entries("a", &BTreeMap::new()).unwrap();
        assert!(path("w").exists());
    }

    #[test]
    fn an_icon_of_another_kind_takes_the_place_of_the_one_before() {
        let home = Home::new();
        let id = names::host_id("a", "x");
        for (icon, place) in [
            (picture(128), "128x128/apps/org.macrohard.a.x.png"),
            (picture(32), "32x32/apps/org.macrohard.a.x.png"),
            (drawing(), "scalable/apps/org.macrohard.a.x.svg"),
        ] {
            assert!(home.folder.set_icon(&id, &icon).unwrap());
            assert_eq!(home.icons(), [Path::new(place)]);
            assert_eq!(home.folder.icons_of("a").unwrap().keys().collect::<Vec<_>>(), [&id]);
        }
        assert!(home.folder.icons_of("b").unwrap().is_empty());
        home.folder.keep_icons("a", &[id].into()).unwrap();
        assert_eq!(home.icons().len(), 1);
        home.folder.keep_icons("a", &BTreeSet::new()).unwrap();
        assert!(home.icons().is_empty());
    }

    #[test]
    fn icons_of_others_stay() {
        let home = Home::new();
        let id = names::host_id("a", "x");
        let path = home.folder.icons.join("scalable/apps").join(format!("{id}.svg"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "<svg/>").unwrap();
        assert!(!home.folder.set_icon(&id, &drawing()).unwrap());
        home.folder.keep_icons("a", &BTreeSet::new()).unwrap();
        home.folder.sweep(&BTreeSet::new()).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "<svg/>");
    }

    #[test]
    fn what_a_killed_daemon_and_a_vanished_vm_left_is_swept_away() {
        let home = Home::new();
        let folder = &home.folder;
        for vm in ["a", "gone"] {
            folder.set_entries(vm, &wanted(vm, &["x"])).unwrap();
            folder.set_icon(&names::host_id(vm, "x"), &drawing()).unwrap();
        }
        let half = folder.entries.join(".org.macrohard.a.y.desktop.77.new");
        std::fs::write(&half, "half").unwrap();
        let done = folder.sweep(&["a".to_owned()].into()).unwrap();
        assert_eq!((done.removed, done.types), (2, true));
        assert_eq!(home.names(), ["org.macrohard.a.x.desktop"]);
        assert_eq!(home.icons().len(), 1);
    }
}
