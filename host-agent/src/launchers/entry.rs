//! The desktop entry of one application (Desktop Entry Specification 1.5).
//!
//! Every value is escaped here, whatever was checked before: no text of a guest ends its line, and none
//! becomes a part of a command. The command is ours with the VM's name and the application's id as arguments.

use super::names;
use proto::v1::{Application, Text};
use std::collections::BTreeSet;

/// The keys by which our files are known.
const VM_KEY: &str = "X-Macrohard-VM";
const APPLICATION_KEY: &str = "X-Macrohard-App";

/// The icon of an application that has none of its own.
const GENERIC_ICON: &str = "application-x-executable";

/// URLs that a guest's application may be offered for.
const SCHEMES: [&str; 3] = ["http", "https", "mailto"];
/// Media types (RFC 6838) that files have. Not `inode` and `x-content`: folders and media are the host's.
const MEDIA: [&str; 10] = [
    "application",
    "audio",
    "chemical",
    "font",
    "image",
    "message",
    "model",
    "text",
    "video",
    "x-scheme-handler",
];

/// Main and additional categories of the Desktop Menu Specification 1.1; its reserved ones steer the host's
/// own shell. `Audio` and `Video` need `AudioVideo` beside them.
const CATEGORIES: &str = " 2DGraphics 3DGraphics Accessibility ActionGame Adult AdventureGame Amusement \
ArcadeGame Archiving Art ArtificialIntelligence Astronomy Audio AudioVideo AudioVideoEditing Biology BlocksGame \
BoardGame Building Calculator Calendar CardGame Chat Chemistry Clock Compression ConsoleOnly Construction \
ContactManagement DataVisualization Database Debugger DesktopSettings Development Dialup Dictionary DiscBurning \
Documentation Economy Education Electricity Electronics Email Emulator Engineering Feed FileManager FileTransfer \
Filesystem Finance FlowChart GNOME GTK GUIDesigner Game Geography Geology Geoscience Graphics HamRadio \
HardwareSettings History Humanities IDE IRCClient ImageProcessing InstantMessaging Java KDE KidsGame Languages \
Literature LogicGame Maps Math MedicalSoftware Midi Mixer Monitor Motif Music Network News NumericalAnalysis OCR \
Office P2P PDA PackageManager ParallelComputing Photography Physics Player Presentation Printing Profiling \
ProjectManagement Publishing Qt RasterGraphics Recorder RemoteAccess RevisionControl Robotics RolePlaying Scanning \
Science Security Sequencer Settings Shooter Simulation Spirituality Sports SportsGame Spreadsheet StrategyGame \
System TV Telephony TelephonyTools TerminalEmulator TextEditor TextTools Translation Tuner Utility VectorGraphics \
Video VideoConference Viewer WebBrowser WebDevelopment WordProcessor XFCE ";

/// What an entry is made of.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// An application that was checked.
    pub application: &'a Application,
    /// Absolute path of the program `macrohard-hypervisor`.
    pub program: &'a str,
    /// It is offered for files of its types.
    pub open_with: bool,
    /// It has an icon of its own under the entry's name.
    pub icon: bool,
}

/// Whether a program at `path` can be named in an entry.
#[must_use]
pub fn is_program(path: &str) -> bool {
    path.starts_with('/') && !path.contains(|c: char| c.is_control() || c == '=')
}

impl Entry<'_> {
    /// The file's text; none of an application that would not be seen anywhere.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let application = self.application;
        let mime_types = self.mime_types();
        if application.hidden && mime_types.is_empty() {
            return None;
        }
        let id = names::host_id(self.vm, &application.id);
        let name = application.name.as_ref();
        let mut lines = Lines("[Desktop Entry]\nType=Application\n".to_owned());
        lines.name(name, &application.id, &format!(" ({})", self.vm));
        lines.text("GenericName", application.generic_name.as_ref());
        // One that only says again what the name does is left out.
        let generic = application.generic_name.as_ref().map(|text| text.plain.to_lowercase());
        let comment = application.comment.as_ref();
        if comment.map(|text| text.plain.to_lowercase()) != generic {
            lines.text("Comment", comment);
        }
        lines.raw("Exec", &self.command(None));
        lines.raw("TryExec", &escape(self.program));
        lines.raw("Icon", if self.icon { &id } else { GENERIC_ICON });
        lines.raw("Terminal", "false");
        lines.raw("StartupNotify", if application.startup_notify { "true" } else { "false" });
        lines.raw("StartupWMClass", &id);
        if application.hidden {
            lines.raw("NoDisplay", "true");
        }
        lines.list("Categories", categories(&application.categories));
        lines.list("Keywords", application.keywords.iter().map(String::as_str));
        lines.list("MimeType", mime_types);
        lines.list("Actions", application.actions.iter().map(|action| action.id.as_str()));
        lines.raw(VM_KEY, &escape(self.vm));
        lines.raw(APPLICATION_KEY, &escape(&application.id));
        for action in &application.actions {
            lines.0.push_str(&format!("\n[Desktop Action {}]\n", action.id));
            lines.name(action.name.as_ref(), &action.id, "");
            lines.raw("Exec", &self.command(Some(&action.id)));
        }
        Some(lines.0)
    }

    fn command(&self, action: Option<&str>) -> String {
        let mut arguments = vec![self.program, "launch", "--menu"];
        if let Some(action) = action {
            arguments.extend(["--action", action]);
        }
        // An id may begin with `-`.
        arguments.extend(["--", self.vm, self.application.id.as_str()]);
        let mut command: Vec<String> = arguments.into_iter().map(quote).collect();
        if self.application.opens && action.is_none() {
            command.push("%U".to_owned());
        }
        escape(&command.join(" "))
    }

    fn mime_types(&self) -> BTreeSet<&str> {
        let offered = |value: &&str| match value.split_once('/') {
            Some(("x-scheme-handler", scheme)) => SCHEMES.contains(&scheme),
            Some((media, _)) => MEDIA.contains(&media),
            None => false,
        };
        let open = self.open_with && self.application.opens;
        let types = self.application.mime_types.iter().map(String::as_str);
        if open { types.filter(offered).collect() } else { BTreeSet::new() }
    }
}

/// The VM and the application of an entry that was made here.
#[must_use]
pub fn owner(text: &str) -> Option<(String, String)> {
    let mut lines = text.lines();
    if lines.next()? != "[Desktop Entry]" {
        return None;
    }
    let (mut vm, mut application) = (None, None);
    for line in lines.take_while(|line| !line.starts_with('[')) {
        match line.split_once('=') {
            Some((VM_KEY, value)) => vm = unescape(value),
            Some((APPLICATION_KEY, value)) => application = unescape(value),
            _ => {}
        }
    }
    Some((vm?, application?))
}

fn categories(told: &[String]) -> Vec<&str> {
    let registered = |category: &str| CATEGORIES.contains(&format!(" {category} "));
    let mut kept: Vec<&str> = Vec::new();
    for category in told.iter().map(String::as_str) {
        if matches!(category, "Audio" | "Video") && !kept.contains(&"AudioVideo") {
            kept.push("AudioVideo");
        }
        let extension = category.strip_prefix("X-").is_some_and(|rest| !rest.is_empty());
        if (registered(category) || extension) && !kept.contains(&category) {
            kept.push(category);
        }
    }
    kept
}

/// The text under the way.
struct Lines(String);

impl Lines {
    /// A value that is escaped already.
    fn raw(&mut self, key: &str, value: &str) {
        self.0.push_str(&format!("{key}={value}\n"));
    }

    fn name(&mut self, name: Option<&Text>, id: &str, behind: &str) {
        let plain = name.map_or("", |name| name.plain.trim());
        self.raw(
            "Name",
            &escape(&format!("{}{behind}", if plain.is_empty() { id } else { plain })),
        );
        self.translations("Name", name, behind);
    }

    fn text(&mut self, key: &str, text: Option<&Text>) {
        if let Some(told) = text
            && !told.plain.trim().is_empty()
        {
            self.raw(key, &escape(told.plain.trim()));
            self.translations(key, text, "");
        }
    }

    fn translations(&mut self, key: &str, text: Option<&Text>, behind: &str) {
        for translation in text.map(|text| &text.translations[..]).unwrap_or_default() {
            let text = translation.text.trim();
            if !text.is_empty() {
                let key = format!("{key}[{}]", translation.language);
                self.raw(&key, &escape(&format!("{text}{behind}")));
            }
        }
    }

    fn list<'a>(&mut self, key: &str, values: impl IntoIterator<Item = &'a str>) {
        let values: Vec<String> = values
            .into_iter()
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .map(|value| escape(value).replace(';', "\\;") + ";")
            .collect();
        if !values.is_empty() {
            self.raw(key, &values.concat());
        }
    }
}

/// A value of type string.
fn escape(value: &str) -> String {
    let mut escaped = String::new();
    for (index, c) in value.chars().enumerate() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            ' ' if index == 0 => escaped.push_str("\\s"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn unescape(value: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        text.push(match c {
            '\\' => match characters.next()? {
                's' => ' ',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '\\' => '\\',
                _ => return None,
            },
            c => c,
        });
    }
    Some(text)
}

/// An argument of `Exec`, before the value is escaped.
fn quote(argument: &str) -> String {
    let argument = argument.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-%+,:@".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument;
    }
    let mut quoted = String::from("\"");
    for c in argument.chars() {
        if matches!(c, '"' | '`' | '$' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::v1::{Action, Translation};
    use std::collections::BTreeMap;

    fn text(plain: &str, translations: &[(&str, &str)]) -> Option<Text> {
        let one = |(language, text): &(&str, &str)| Translation {
            language: (*language).into(),
            text: (*text).into(),
        };
        Some(Text { plain: plain.into(), translations: translations.iter().map(one).collect() })
    }

    fn editor() -> Application {
        Application {
            id: "org.gnome.TextEditor".into(),
            name: text("Text Editor", &[("de", "Texteditor")]),
            comment: text("Edit text files", &[]),
            generic_name: text("Editor", &[]),
            keywords: vec!["notes; plain".into()],
            categories: vec![
                "GNOME".into(),
                "Video".into(),
                "Shell".into(),
                "X-A".into(),
                "No".into(),
            ],
            mime_types: vec![
                "text/plain".into(),
                "inode/directory".into(),
                "x-scheme-handler/ssh".into(),
            ],
            actions: vec![Action { id: "new-window".into(), name: text("New Window", &[]) }],
            opens: true,
            icon: 1,
            ..Application::default()
        }
    }

    fn entry(application: &Application) -> Entry<'_> {
        Entry { vm: "Büro 1", application, program: "/opt/m h/cli", open_with: false, icon: true }
    }

    #[test]
    fn an_entry_says_what_it_starts_and_where_it_comes_from() {
        let editor = editor();
        assert_eq!(
            entry(&editor).text().unwrap(),
            "[Desktop Entry]\n\
             Type=Application\n\
             Name=Text Editor (Büro 1)\n\
             Name[de]=Texteditor (Büro 1)\n\
             GenericName=Editor\n\
             Comment=Edit text files\n\
             Exec=\"/opt/m h/cli\" launch --menu -- \"Büro 1\" org.gnome.TextEditor %U\n\
             TryExec=/opt/m h/cli\n\
             Icon=org.macrohard.B_c3_bcro_201.org_2egnome_2eTextEditor\n\
             Terminal=false\n\
             StartupNotify=false\n\
             StartupWMClass=org.macrohard.B_c3_bcro_201.org_2egnome_2eTextEditor\n\
             Categories=GNOME;AudioVideo;Video;X-A;\n\
             Keywords=notes\\; plain;\n\
             Actions=new-window;\n\
             X-Macrohard-VM=Büro 1\n\
             X-Macrohard-App=org.gnome.TextEditor\n\
             \n\
             [Desktop Action new-window]\n\
             Name=New Window\n\
             Exec=\"/opt/m h/cli\" launch --menu --action new-window -- \"Büro 1\" org.gnome.TextEditor\n"
        );
        let owner = owner(&entry(&editor).text().unwrap()).unwrap();
        assert_eq!(owner, ("Büro 1".to_owned(), "org.gnome.TextEditor".to_owned()));
    }

    #[test]
    fn types_are_offered_only_when_asked_for_and_only_those_of_files() {
        let editor = editor();
        let offered = |open_with| Entry { open_with, ..entry(&editor) }.text().unwrap();
        assert!(!offered(false).contains("MimeType"));
        assert!(offered(true).contains("\nMimeType=text/plain;\n"));
        let hidden = Application { hidden: true, ..editor.clone() };
        assert_eq!(entry(&hidden).text(), None);
        let seen = Entry { open_with: true, ..entry(&hidden) }.text().unwrap();
        assert!(seen.contains("\nNoDisplay=true\n"));
        let closed = Application { opens: false, ..editor };
        let closed = Entry { open_with: true, ..entry(&closed) }.text().unwrap();
        assert!(!closed.contains('%') && !closed.contains("MimeType"), "{closed}");
    }

    #[test]
    fn an_application_without_a_name_is_called_by_its_id() {
        let nameless =
            Application { id: "x".into(), name: text(" ", &[]), ..Application::default() };
        let text = Entry { icon: false, ..entry(&nameless) }.text().unwrap();
        assert!(
            text.contains("\nName=x (Büro 1)\n")
                && text.contains("\nIcon=application-x-executable\n")
        );
    }

    #[test]
    fn files_of_others_have_no_owner() {
        for text in [
            "",
            "[Desktop Entry]\nName=x\n",
            "X-Macrohard-VM=a\nX-Macrohard-App=b\n",
            "[Desktop Entry]\n[Desktop Action a]\nX-Macrohard-VM=a\nX-Macrohard-App=b\n",
        ] {
            assert_eq!(owner(text), None, "{text}");
        }
    }

    #[test]
    fn a_program_is_named_by_its_path() {
        assert!(is_program("/usr/bin/macrohard hypervisor"));
        for bad in ["cli", "", "/a=b", "/a\nb"] {
            assert!(!is_program(bad), "{bad:?}");
        }
    }

    /// Reads a file as strictly as a desktop does; fails on a key that stands twice in a group.
    fn parse(text: &str) -> Vec<(String, BTreeMap<String, String>)> {
        let mut groups: Vec<(String, BTreeMap<String, String>)> = Vec::new();
        for line in text.split('\n').filter(|line| !line.is_empty()) {
            if let Some(group) = line.strip_prefix('[') {
                groups.push((group.strip_suffix(']').unwrap().to_owned(), BTreeMap::new()));
            } else {
                let (key, value) = line.split_once('=').unwrap();
                let before = groups.last_mut().unwrap().1.insert(key.into(), value.into());
                assert_eq!(before, None, "{key} stands twice");
            }
        }
        groups
    }

    /// The arguments of an `Exec` line, by the rules of the specification.
    fn arguments(value: &str) -> Vec<String> {
        let value = unescape(value).unwrap();
        let (mut arguments, mut argument, mut quoted) = (Vec::new(), None::<String>, false);
        let mut characters = value.chars();
        while let Some(c) = characters.next() {
            match c {
                '"' => {
                    quoted = !quoted;
                    argument.get_or_insert_default();
                }
                ' ' if !quoted => arguments.extend(argument.take()),
                '\\' if quoted => {
                    let escaped = characters.next().unwrap();
                    assert!("\"`$\\".contains(escaped));
                    argument.get_or_insert_default().push(escaped);
                }
                '%' => match characters.next().unwrap() {
                    '%' => argument.get_or_insert_default().push('%'),
                    'U' => argument.get_or_insert_default().push_str("FILES"),
                    other => panic!("field code {other}"),
                },
                c => {
                    assert!(quoted || !"'><~|&;$*?#()`\\".contains(c), "{c} is not quoted");
                    argument.get_or_insert_default().push(c);
                }
            }
        }
        assert!(!quoted);
        arguments.extend(argument);
        arguments
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["\\PC{0,20}", "[\\[\\]=;%\\\\\"`$\n\r\t #a]{0,20}", ".{0,20}"]
    }

    proptest! {
        /// Also with what the check of the list would not let through.
        #[test]
        fn no_text_of_a_guest_becomes_a_key_a_group_or_an_argument(
            texts in proptest::collection::vec(any_text(), 7),
            id in "[A-Za-z0-9._-]{1,20}", program in "/[^=\\x00-\\x1f\\x7f-\\u{9f}]{1,20}",
            opens: bool, open_with: bool,
        ) {
            let some = |index: usize| text(&texts[index], &[("de", &texts[index])]);
            let application = Application {
                id: id.clone(),
                name: some(0),
                comment: some(1),
                generic_name: some(2),
                keywords: vec![texts[3].clone(), texts[4].clone()],
                categories: vec![texts[3].clone(), "Game".into()],
                mime_types: vec![texts[5].clone(), "text/plain".into()],
                startup_class: texts[6].clone(),
                actions: vec![Action { id: "go".into(), name: some(4) }],
                opens,
                ..Application::default()
            };
            let vm = "Büro #1 (a&b)";
            let made = Entry { vm, application: &application, program: &program, open_with, icon: true };
            let groups = parse(&made.text().unwrap());
            let names: Vec<_> = groups.iter().map(|(name, _)| name.as_str()).collect();
            prop_assert_eq!(names, ["Desktop Entry", "Desktop Action go"]);
            const KEYS: [&str; 20] = [
                "Type", "Name", "Name[de]", "GenericName", "GenericName[de]", "Comment", "Comment[de]",
                "Exec", "TryExec", "Icon", "Terminal", "StartupNotify", "StartupWMClass", "NoDisplay",
                "Categories", "Keywords", "MimeType", "Actions", "X-Macrohard-VM", "X-Macrohard-App",
            ];
            for (_, keys) in &groups {
                for key in keys.keys() {
                    prop_assert!(KEYS.contains(&key.as_str()), "{}", key);
                }
            }
            let keys = &groups[0].1;
            prop_assert_eq!(owner(&made.text().unwrap()), Some((vm.to_owned(), id.clone())));
            let mut command = vec![program.as_str(), "launch", "--menu", "--", vm, id.as_str()];
            let action = [&command[..3], &["--action", "go"], &command[3..]].concat();
            if opens {
                command.push("FILES");
            }
            prop_assert_eq!(arguments(&keys["Exec"]), command);
            prop_assert_eq!(arguments(&groups[1].1["Exec"]), action);
            prop_assert_eq!(unescape(&keys["TryExec"]).unwrap(), program);
            prop_assert_eq!(keys.contains_key("MimeType"), opens && open_with);
        }
    }
}
