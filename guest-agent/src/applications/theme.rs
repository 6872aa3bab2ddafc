//! Where an icon's files are: the Icon Theme Specification 0.13.
//!
//! Folders are read once for all icons that are looked for, and only those are kept: a theme may have ten
//! thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::file;
use super::keyfile::KeyFile;
use super::session::Session;
use super::watch::Watch;

/// Bytes of an index.theme, or of a file with settings.
const LONGEST_INDEX: usize = 1 << 20;
/// Folders of one theme.
const MOST_DIRECTORIES: usize = 2048;
/// Files of one folder.
const MOST_FILES: usize = 1 << 16;
/// Themes that inherit from one another.
const MOST_THEMES: usize = 16;
/// Files of one icon.
const MOST_CANDIDATES: usize = 128;
/// Longest name of an icon: that of a file.
const LONGEST_NAME: usize = 250;

/// Themes whose icons are taken where no other has any. Programs name icons that these have.
const LAST_THEMES: [&str; 3] = ["hicolor", "Adwaita", "Papirus"];

/// A file that shows an icon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) svg: bool,
    /// Its edge in pixels, from and to.
    sizes: (u32, u32),
}

/// A folder of a theme.
#[derive(Clone, Debug)]
struct Directory {
    name: String,
    sizes: (u32, u32),
    applications: bool,
}

/// The files of each icon.
#[derive(Debug, Default)]
pub(super) struct Icons(BTreeMap<String, Vec<Candidate>>);

/// The name by which an icon is looked for; `None` when none can be found by it. Many write a file's name.
fn plain_name(icon: &str) -> Option<&str> {
    let name = ["png", "svg", "xpm"]
        .iter()
        .find_map(|kind| icon.strip_suffix(kind)?.strip_suffix('.'))
        .unwrap_or(icon);
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(['/', '\0']);
    fits.then_some(name)
}

impl Icons {
    /// Finds the files of all these icons (values of Icon keys) and watches where others may come.
    pub(super) fn find(icons: &BTreeSet<String>, session: &Session, watch: &mut Watch) -> Self {
        let mut found = Self::default();
        let mut wanted = BTreeSet::new();
        for icon in icons {
            if icon.starts_with('/') {
                let (path, svg) = (PathBuf::from(icon), icon.ends_with(".svg"));
                found.0.insert(icon.clone(), vec![Candidate { path, svg, sizes: (0, 0) }]);
            } else if let Some(name) = plain_name(icon) {
                wanted.insert(name.to_owned());
            }
        }
        let data = session.data();
        let mut bases = vec![session.home().join(".icons")];
        bases.extend(data.iter().map(|folder| folder.join("icons")));
        for base in &bases {
            watch.folder(base);
        }
        for theme in themes(session, &bases) {
            found.in_theme(&theme, &bases, &mut wanted, watch);
        }
        let mut plain = bases;
        plain.extend(data.iter().map(|folder| folder.join("pixmaps")));
        plain.push("/usr/share/pixmaps".into());
        for folder in plain {
            found.in_folder(&folder, (0, 0), &wanted);
        }
        found
    }

    /// The files of an icon, those of the most important place first.
    pub(super) fn of(&self, icon: &str) -> &[Candidate] {
        let key = if icon.starts_with('/') { Some(icon) } else { plain_name(icon) };
        key.and_then(|key| self.0.get(key)).map_or(&[], Vec::as_slice)
    }

    /// Icons that one theme has are not looked for in those after it.
    fn in_theme(
        &mut self,
        theme: &Theme,
        bases: &[PathBuf],
        wanted: &mut BTreeSet<String>,
        watch: &mut Watch,
    ) {
        for base in bases {
            let folder = base.join(&theme.name);
            if !folder.is_dir() {
                continue;
            }
            // Whoever installs icons touches it.
            watch.folder(&folder);
            for directory in &theme.directories {
                let folder = folder.join(&directory.name);
                if directory.applications && folder.is_dir() {
                    watch.folder(&folder);
                }
                self.in_folder(&folder, directory.sizes, wanted);
            }
        }
        wanted.retain(|name| !self.0.contains_key(name));
    }

    fn in_folder(&mut self, folder: &Path, sizes: (u32, u32), wanted: &BTreeSet<String>) {
        let Ok(entries) = folder.read_dir() else { return };
        for entry in entries.flatten().take(MOST_FILES) {
            let path = PathBuf::from(entry.file_name());
            let svg = match path.extension().and_then(|kind| kind.to_str()) {
                Some("png") => false,
                Some("svg") => true,
                _ => continue,
            };
            let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
            if wanted.contains(name) {
                let candidates = self.0.entry(name.to_owned()).or_default();
                if candidates.len() < MOST_CANDIDATES {
                    candidates.push(Candidate { path: folder.join(&path), svg, sizes });
                }
            }
        }
    }
}

/// The candidates in the order in which to try them for this size: of the size itself, one that scales,
/// the nearest larger, the largest.
pub(super) fn order(candidates: &[Candidate], size: u32) -> Vec<&Candidate> {
    let rank = |candidate: &Candidate| {
        let (least, most) = candidate.sizes;
        if candidate.svg {
            (1, 0)
        } else if (least..=most).contains(&size) {
            (0, 0)
        } else if least > size {
            (2, least - size)
        } else {
            (3, size - most)
        }
    };
    let mut ordered: Vec<&Candidate> = candidates.iter().collect();
    ordered.sort_by_key(|candidate| rank(candidate));
    ordered
}

/// A theme.
struct Theme {
    name: String,
    directories: Vec<Directory>,
    inherits: Vec<String>,
}

/// The user's theme, those it inherits from, and the last ones.
fn themes(session: &Session, bases: &[PathBuf]) -> Vec<Theme> {
    let mut waiting: Vec<String> = chosen(session).into_iter().collect();
    let (mut themes, mut seen) = (Vec::new(), BTreeSet::new());
    let last = LAST_THEMES.iter().map(|name| (*name).to_owned());
    // hicolor comes after all that a theme inherits from, though they name it too.
    seen.extend(last.clone());
    while let Some(name) = waiting.pop() {
        if is_name(&name) && themes.len() < MOST_THEMES && seen.insert(name.clone()) {
            let theme = Theme::read(name, bases);
            waiting.extend(theme.inherits.iter().rev().cloned());
            themes.push(theme);
        }
    }
    themes.extend(last.map(|name| Theme::read(name, bases)));
    themes
}

/// The theme in the settings of the user's desktop.
fn chosen(session: &Session) -> Option<String> {
    let places = [
        ("gtk-4.0/settings.ini", "Settings", "gtk-icon-theme-name"),
        ("gtk-3.0/settings.ini", "Settings", "gtk-icon-theme-name"),
        ("kdeglobals", "Icons", "Theme"),
    ];
    places.iter().find_map(|(name, group, key)| {
        let bytes = file::read(&session.configuration().join(name), LONGEST_INDEX).ok()?;
        KeyFile::parse(&bytes).group(group)?.text(key)
    })
}

/// One folder's name, so that a theme's is not the way to somewhere else.
fn is_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

impl Theme {
    /// Reads the index, which only one base needs to have. A theme without one has no folders, but for
    /// hicolor, which has them on any system.
    fn read(name: String, bases: &[PathBuf]) -> Self {
        let index = bases
            .iter()
            .find_map(|base| file::read(&base.join(&name).join("index.theme"), LONGEST_INDEX).ok());
        let mut theme = Self { name, directories: Vec::new(), inherits: Vec::new() };
        if let Some(index) = index {
            theme.index(&KeyFile::parse(&index));
        }
        if theme.name == "hicolor" && theme.directories.is_empty() {
            let sizes = [16, 22, 24, 32, 36, 48, 64, 72, 96, 128, 192, 256, 512];
            let directory = |name, sizes| Directory { name, sizes, applications: true };
            theme.directories = sizes
                .map(|size| directory(format!("{size}x{size}/apps"), (size, size)))
                .into_iter()
                .chain([directory("scalable/apps".to_owned(), (1, 512))])
                .collect();
        }
        theme
    }

    fn index(&mut self, index: &KeyFile<'_>) {
        let Some(main) = index.group("Icon Theme") else { return };
        let list = |key| main.text(key).unwrap_or_default();
        let names = |text: &str| -> Vec<String> {
            text.split(',').map(|name| name.trim().to_owned()).collect()
        };
        self.inherits = names(&list("Inherits"));
        let directories =
            names(&list("Directories")).into_iter().chain(names(&list("ScaledDirectories")));
        self.directories = directories
            .take(MOST_DIRECTORIES)
            .filter_map(|name| Directory::read(name, index))
            .collect();
    }
}

impl Directory {
    fn read(name: String, index: &KeyFile<'_>) -> Option<Self> {
        if !Path::new(&name).components().all(|part| matches!(part, Component::Normal(_))) {
            return None;
        }
        let group = index.group(&name)?;
        let size = group.number("Size")?;
        let scale = group.number("Scale").unwrap_or(1);
        let (least, most) = match group.text("Type").as_deref() {
            Some("Fixed") => (size, size),
            Some("Scalable") => {
                (group.number("MinSize").unwrap_or(size), group.number("MaxSize").unwrap_or(size))
            }
            _ => {
                let threshold = group.number("Threshold").unwrap_or(2);
                (size.saturating_sub(threshold), size.saturating_add(threshold))
            }
        };
        let sizes = (least.saturating_mul(scale), most.saturating_mul(scale));
        let applications = group.text("Context").as_deref() == Some("Applications");
        Some(Self { name, sizes, applications })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(files: &[(&str, &str)]) -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            for (name, content) in files {
                let path = home.0.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            home
        }

        /// Paths in the order for a size, from the home on.
        fn found(&self, icon: &str, size: u32) -> Vec<String> {
            let home = self.0.path().to_str().unwrap();
            let session = Session::of(&[("HOME", home), ("XDG_DATA_DIRS", &format!("{home}/sys"))]);
            let icons = Icons::find(&[icon.to_owned()].into(), &session, &mut Watch::new());
            let paths = order(icons.of(icon), size).into_iter().map(|found| &found.path);
            let inside = |path: &PathBuf| path.strip_prefix(home).unwrap_or(path).to_owned();
            paths.map(|path| inside(path).into_os_string().into_string().unwrap()).collect()
        }
    }

    const INDEX: &str = "[Icon Theme]\nName=x\nInherits=parent\nDirectories=16/apps,48/apps,../up,gone\n\
        ScaledDirectories=24@2/apps\n[16/apps]\nSize=16\nType=Fixed\nContext=Applications\n[48/apps]\nSize=48\n\
        [24@2/apps]\nSize=24\nScale=2\nType=Fixed\n[../up]\nSize=1\n";

    #[test]
    fn the_nearest_size_comes_first() {
        let home = Home::new(&[
            (".local/share/icons/hicolor/16x16/apps/a.png", ""),
            (".local/share/icons/hicolor/48x48/apps/a.png", ""),
            (".local/share/icons/hicolor/256x256/apps/a.png", ""),
            (".local/share/icons/hicolor/48x48/apps/a.xpm", ""),
            ("sys/icons/hicolor/64x64/apps/a.png", ""),
        ]);
        let sizes = |size| -> Vec<String> {
            let found = home.found("a", size);
            found.iter().map(|path| path.split('/').rev().nth(2).unwrap().to_owned()).collect()
        };
        assert_eq!(sizes(48), ["48x48", "64x64", "256x256", "16x16"]);
        assert_eq!(sizes(50), ["64x64", "256x256", "48x48", "16x16"]);
        assert_eq!(sizes(512), ["256x256", "64x64", "48x48", "16x16"]);
        std::fs::create_dir_all(home.0.path().join("sys/icons/hicolor/scalable/apps")).unwrap();
        std::fs::write(home.0.path().join("sys/icons/hicolor/scalable/apps/a.svg"), "").unwrap();
        assert_eq!(sizes(48)[..2], ["48x48", "scalable"]);
        assert_eq!(sizes(50)[..2], ["scalable", "64x64"]);
    }

    #[test]
    fn the_users_theme_and_those_it_inherits_from_come_before_others() {
        let home = Home::new(&[
            (".config/gtk-3.0/settings.ini", "[Settings]\ngtk-icon-theme-name=mine\n"),
            (".icons/mine/index.theme", INDEX),
            ("sys/icons/mine/48/apps/a.png", ""),
            ("sys/icons/mine/24@2/apps/a.png", ""),
            ("sys/icons/parent/index.theme", &INDEX.replace("parent", "mine,hicolor")),
            ("sys/icons/parent/16/apps/a.png", ""),
            ("sys/icons/parent/16/apps/b.png", ""),
            ("sys/icons/hicolor/48x48/apps/b.png", ""),
            ("sys/icons/hicolor/48x48/apps/c.png", ""),
            ("sys/icons/d.svg", ""),
            ("sys/pixmaps/e.png", ""),
            ("sys/icons/up/f.png", ""),
        ]);
        assert_eq!(
            home.found("a", 48),
            ["sys/icons/mine/48/apps/a.png", "sys/icons/mine/24@2/apps/a.png"]
        );
        assert_eq!(home.found("b", 48), ["sys/icons/parent/16/apps/b.png"]);
        assert_eq!(home.found("c.png", 48), ["sys/icons/hicolor/48x48/apps/c.png"]);
        assert_eq!(home.found("d", 48), ["sys/icons/d.svg"]);
        assert_eq!(home.found("e.xpm", 48), ["sys/pixmaps/e.png"]);
        assert_eq!(home.found("/x/y.svg", 48), ["/x/y.svg"]);
        for none in ["f", "", "../d", "a/b", ".png", &"x".repeat(300)] {
            assert!(home.found(none, 48).is_empty(), "{none}");
        }
    }

    #[test]
    fn a_theme_is_no_way_to_somewhere_else() {
        for (name, fits) in [
            ("Adwaita", true),
            ("..", false),
            (".", false),
            ("", false),
            ("a/b", false),
            ("/", false),
        ] {
            assert_eq!(is_name(name), fits, "{name}");
        }
        let inherits_itself = INDEX.replace("parent", "../../x,mine,mine");
        let home = Home::new(&[
            (".config/kdeglobals", "[Icons]\nTheme=mine\n"),
            (".icons/mine/index.theme", &inherits_itself),
            (".icons/mine/16/apps/a.png", ""),
        ]);
        assert_eq!(home.found("a", 16), [".icons/mine/16/apps/a.png"]);
    }
}
