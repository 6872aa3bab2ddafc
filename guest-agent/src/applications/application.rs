//! One desktop file as an [`Application`] for the host, within the protocol's limits.
//!
//! What an application cannot do without keeps it off the list when it is wrong; of the rest, what is
//! wrong or too large is left out of it and counted.

use std::collections::BTreeSet;

use proto::v1::{Action, Application, Text, Translation};

use super::exec::{ExecError, Line, Takes};
use super::keyfile::{Group, KeyFile};

/// The group of the application itself.
pub(super) const MAIN: &str = "Desktop Entry";

/// Limits of `Application` and `Action`, as the protocol says. Bytes, unless they are numbers of items.
mod limit {
    pub(super) const ID: usize = 128;
    pub(super) const NAME: usize = 128;
    pub(super) const COMMENT: usize = 256;
    pub(super) const KEYWORDS: usize = 64;
    pub(super) const KEYWORD: usize = 128;
    pub(super) const CATEGORIES: usize = 32;
    pub(super) const CATEGORY: usize = 64;
    pub(super) const MIME_TYPES: usize = 256;
    pub(super) const MIME_TYPE: usize = 128;
    pub(super) const STARTUP_CLASS: usize = 128;
    pub(super) const ACTIONS: usize = 32;
    pub(super) const ACTION: usize = 64;
}

/// Why a file is no application of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum LeftOut {
    /// It says so itself: hidden, for another desktop, a link, a program that is not installed.
    #[error("not meant to be listed")]
    Meant,
    /// There are more than the list may have.
    #[error("over the limit of the list")]
    Many,
    /// It is no file, cannot be read, or is larger than any such file.
    #[error("not a readable desktop file")]
    Unreadable,
    /// Its name.
    #[error("a file name that is no id")]
    Id,
    /// The Name key is missing or too long.
    #[error("no name, or a long one")]
    Name,
    /// The Exec key.
    #[error("Exec: {0}")]
    Exec(#[from] ExecError),
}

/// For whom files are read.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The host's languages.
    pub languages: &'a [String],
    /// Names of the desktop that runs (`XDG_CURRENT_DESKTOP`).
    pub desktops: &'a [String],
    /// Whether a program is installed.
    pub installed: &'a dyn Fn(&str) -> bool,
}

/// An application that is to be listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// For the host; its icon is not yet looked for.
    pub application: Application,
    /// The Icon key; may be empty.
    pub icon: String,
    /// Parts that were left out of it.
    pub parts_left_out: usize,
}

/// Letters, digits, `-`, `_`, `.`.
fn is_id(id: &str) -> bool {
    (1..=limit::ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_action(id: &str) -> bool {
    (1..=limit::ACTION).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `type/subtype` of the characters that names have (RFC 6838, section 4.2).
fn is_mime_type(text: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

/// The text as one line of characters that are shown. The host refuses others; they are at home in some
/// languages all the same (a joiner that shapes letters), so the rest of the text stays.
fn clean(text: &str) -> String {
    let hides = |character| {
        matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
    };
    let shown = text.chars().filter(|character| !hides(*character));
    let line: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().to_owned()
}

/// Reads parts within their limits, and counts those that are not.
struct Reader<'a> {
    languages: &'a [String],
    left_out: usize,
}

impl Reader<'_> {
    fn within(&mut self, text: Option<String>, most: usize) -> Option<String> {
        let text = text.map(|text| clean(&text)).filter(|text| !text.is_empty())?;
        if text.len() > most {
            self.left_out += 1;
            return None;
        }
        Some(text)
    }

    fn text(&mut self, group: Group<'_>, key: &str, most: usize) -> Option<Text> {
        let plain = self.within(group.text(key), most)?;
        let mut translations = Vec::new();
        for language in self.languages {
            if let Some(text) = self.within(group.translated(key, language), most) {
                translations.push(Translation { language: language.clone(), text });
            }
        }
        Some(Text { plain, translations })
    }

    /// Each item once, in order.
    fn list(
        &mut self,
        items: Vec<String>,
        (number, bytes): (usize, usize),
        fits: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let (mut seen, mut list) = (BTreeSet::new(), Vec::new());
        for item in items.iter().map(|item| clean(item)) {
            if item.is_empty() || seen.contains(&item) {
                continue;
            }
            if list.len() == number || item.len() > bytes || !fits(&item) {
                self.left_out += 1;
                continue;
            }
            seen.insert(item.clone());
            list.push(item);
        }
        list
    }

    fn actions(&mut self, file: &KeyFile<'_>, main: Group<'_>) -> Vec<Action> {
        let ids = self.list(main.list("Actions"), (limit::ACTIONS, limit::ACTION), is_action);
        let mut actions = Vec::new();
        for id in ids {
            let Some(group) = action_group(file, &id) else { continue };
            let runs = main.flag("DBusActivatable")
                || group.text("Exec").is_some_and(|line| line.parse::<Line>().is_ok());
            match self.text(group, "Name", limit::NAME) {
                Some(name) if runs => actions.push(Action { id, name: Some(name) }),
                _ => self.left_out += 1,
            }
        }
        actions
    }
}

/// The group of an action.
pub(super) fn action_group<'a>(file: &'a KeyFile<'_>, id: &str) -> Option<Group<'a>> {
    file.group(&format!("Desktop Action {id}"))
}

/// Whether the desktop that runs is one that the application is for ("OnlyShowIn, NotShowIn").
fn is_for(desktops: &[String], group: Group<'_>) -> bool {
    let (only, not) = (group.list("OnlyShowIn"), group.list("NotShowIn"));
    for desktop in desktops {
        if only.contains(desktop) {
            return true;
        }
        if not.contains(desktop) {
            return false;
        }
    }
    only.is_empty()
}

/// What the host is told of a desktop file.
///
/// # Errors
/// It is not listed.
pub fn read(id: &str, bytes: &[u8], view: &View<'_>) -> Result<Listed, LeftOut> {
    if !is_id(id) {
        return Err(LeftOut::Id);
    }
    let file = KeyFile::parse(bytes);
    let group = file.group(MAIN).ok_or(LeftOut::Unreadable)?;
    let mime_types = group.list("MimeType");
    let hidden = group.flag("NoDisplay");
    if group.text("Type").as_deref() != Some("Application")
        || group.flag("Hidden")
        || (hidden && mime_types.is_empty())
        || !is_for(view.desktops, group)
        || group.text("TryExec").is_some_and(|program| !(view.installed)(&program))
    {
        return Err(LeftOut::Meant);
    }
    let by_bus = group.flag("DBusActivatable");
    let takes = match group.text("Exec").map(|line| line.parse::<Line>()) {
        Some(Ok(line)) => line.takes(),
        _ if by_bus => Takes::Nothing,
        Some(Err(error)) => return Err(error.into()),
        None => return Err(ExecError::Empty.into()),
    };
    let mut reader = Reader { languages: view.languages, left_out: 0 };
    let name = reader.text(group, "Name", limit::NAME).ok_or(LeftOut::Name)?;
    let keywords = group.translated_list("Keywords", view.languages);
    let any = |_: &str| true;
    let is_category = |text: &str| is_action(text);
    let application = Application {
        id: id.to_owned(),
        name: Some(name),
        comment: reader.text(group, "Comment", limit::COMMENT),
        generic_name: reader.text(group, "GenericName", limit::NAME),
        keywords: reader.list(keywords, (limit::KEYWORDS, limit::KEYWORD), any),
        categories: reader.list(
            group.list("Categories"),
            (limit::CATEGORIES, limit::CATEGORY),
            is_category,
        ),
        opens: takes != Takes::Nothing || (by_bus && !mime_types.is_empty()),
        mime_types: reader.list(mime_types, (limit::MIME_TYPES, limit::MIME_TYPE), is_mime_type),
        startup_class: reader
            .within(group.text("StartupWMClass"), limit::STARTUP_CLASS)
            .unwrap_or_default(),
        actions: reader.actions(&file, group),
        terminal: group.flag("Terminal"),
        hidden,
        startup_notify: group.flag("StartupNotify"),
        icon: 0,
    };
    Ok(Listed {
        application,
        icon: group.text("Icon").unwrap_or_default(),
        parts_left_out: reader.left_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "[Desktop Entry]\nType=Application\nName=Editor\nExec=edit %F\n";

    fn view<'a>(languages: &'a [String], desktops: &'a [String]) -> View<'a> {
        View { languages, desktops, installed: &|program| program == "installed" }
    }

    fn listed(text: &str) -> Result<Listed, LeftOut> {
        read("a.b", text.as_bytes(), &view(&[], &[]))
    }

    #[test]
    fn all_that_the_host_is_told_is_read() {
        let text = "[Desktop Entry]\nType=Application\nName=Editor\nName[de]=Bearbeiter\nName[fr]=x\n\
            Comment=Edits\nGenericName=Text Editor\nKeywords=a;b\\;c;a;\nKeywords[de]=d;\n\
            Categories=Utility;X-GNOME_Y;TextEditor;\nMimeType=text/plain;text/x-c++src;nonsense;a b/c;\n\
            StartupWMClass=Edit\nActions=new;gone;no-exec;bad_id;\nTerminal=true\nStartupNotify=true\n\
            Icon=edit\nExec=edit %U\n[Desktop Action new]\nName=New\nName[de]=Neu\nExec=edit --new\n\
            [Desktop Action no-exec]\nName=No\n";
        let languages = ["de_AT".to_owned()];
        let listed = read("org.x.Edit", text.as_bytes(), &view(&languages, &[])).unwrap();
        let translated = |plain: &str, text: &str| {
            let translation = Translation { language: "de_AT".into(), text: text.into() };
            Some(Text { plain: plain.into(), translations: vec![translation] })
        };
        let plain = |plain: &str| Some(Text { plain: plain.into(), translations: Vec::new() });
        let expected = Application {
            id: "org.x.Edit".into(),
            name: translated("Editor", "Bearbeiter"),
            comment: plain("Edits"),
            generic_name: plain("Text Editor"),
            keywords: vec!["d".into()],
            categories: vec!["Utility".into(), "TextEditor".into()],
            mime_types: vec!["text/plain".into(), "text/x-c++src".into()],
            startup_class: "Edit".into(),
            actions: vec![Action { id: "new".into(), name: translated("New", "Neu") }],
            terminal: true,
            hidden: false,
            startup_notify: true,
            opens: true,
            icon: 0,
        };
        assert_eq!(listed.application, expected);
        assert_eq!(listed.icon, "edit");
        // A category, two MIME types, an action without a command, an action's id.
        assert_eq!(listed.parts_left_out, 5);
        let elsewhere = read("a", text.as_bytes(), &view(&[], &[])).unwrap().application;
        assert_eq!(
            (elsewhere.name, &elsewhere.keywords[..]),
            (plain("Editor"), &["a".into(), "b;c".into()][..])
        );
    }

    #[test]
    fn what_says_that_it_is_not_to_be_listed_is_not() {
        for more in
            ["Hidden=true\n", "NoDisplay=true\n", "OnlyShowIn=GNOME;\n", "TryExec=missing\n"]
        {
            assert_eq!(listed(&format!("{PLAIN}{more}")).unwrap_err(), LeftOut::Meant, "{more}");
        }
        let opener = listed(&format!("{PLAIN}NoDisplay=true\nMimeType=text/plain;\n")).unwrap();
        assert!(opener.application.hidden);
        assert!(!listed(&format!("{PLAIN}TryExec=installed\n")).unwrap().application.hidden);
        let link = "[Desktop Entry]\nType=Link\nName=x\nURL=https://x/\nExec=x\n";
        assert_eq!(listed(link).unwrap_err(), LeftOut::Meant);
    }

    #[test]
    fn a_desktops_own_applications_are_listed_where_it_runs() {
        let desktops =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (keys, running, shown) in [
            ("OnlyShowIn=GNOME;", &["GNOME"][..], true),
            ("OnlyShowIn=GNOME;", &["ubuntu", "GNOME"], true),
            ("OnlyShowIn=GNOME;", &["KDE"], false),
            ("OnlyShowIn=GNOME;", &[], false),
            ("NotShowIn=KDE;", &["KDE"], false),
            ("NotShowIn=KDE;", &["XFCE"], true),
            ("NotShowIn=KDE;", &[], true),
            ("OnlyShowIn=A;\nNotShowIn=B;", &["A", "B"], true),
            ("OnlyShowIn=A;\nNotShowIn=B;", &["B", "A"], false),
        ] {
            let text = format!("{PLAIN}{keys}\n");
            let desktops = desktops(running);
            let read = read("a", text.as_bytes(), &view(&[], &desktops));
            assert_eq!(read.is_ok(), shown, "{keys} {running:?}");
        }
    }

    #[test]
    fn a_file_without_what_it_needs_is_left_out_with_the_reason() {
        let start = "[Desktop Entry]\nType=Application\n";
        for (text, why) in [
            ("", LeftOut::Unreadable),
            ("\u{0}\u{1}[", LeftOut::Unreadable),
            (&format!("{start}Exec=x\n"), LeftOut::Name),
            (&format!("{start}Name= \u{202e}\u{200b}\nExec=x\n"), LeftOut::Name),
            (&format!("{start}Name={}\nExec=x\n", "x".repeat(129)), LeftOut::Name),
            (&format!("{start}Name=x\n"), LeftOut::Exec(ExecError::Empty)),
            (&format!("{start}Name=x\nExec=x %z\n"), LeftOut::Exec(ExecError::Field)),
            (&format!("{start}Name=x\nExec=x \"\\n\n"), LeftOut::Exec(ExecError::Quote)),
        ] {
            assert_eq!(listed(text).unwrap_err(), why, "{text}");
        }
        let by_bus =
            listed(&format!("{start}Name=x\nDBusActivatable=true\nMimeType=a/b;\n")).unwrap();
        assert!(by_bus.application.opens);
        for id in ["", "a b", "ä", "a/b", "a\n", &"x".repeat(129)] {
            assert_eq!(
                read(id, PLAIN.as_bytes(), &view(&[], &[])).unwrap_err(),
                LeftOut::Id,
                "{id}"
            );
        }
    }

    #[test]
    fn parts_over_their_limit_are_left_out_and_counted() {
        let many = |count: usize, item: &str| {
            (0..count).map(|n| format!("{item}{n};")).collect::<String>()
        };
        let actions: String =
            (0..40).map(|n| format!("[Desktop Action a{n}]\nName=x\nExec=x\n")).collect();
        let long = "y".repeat(300);
        let text = format!(
            "{PLAIN}Comment={long}\nGenericName={long}\nStartupWMClass={long}\nKeywords={}\nCategories={}\n\
             MimeType={}\nActions={}\n{actions}",
            many(70, "k"),
            many(40, "C"),
            many(300, "a/b"),
            many(40, "a"),
        );
        let Listed { application, parts_left_out, .. } = listed(&text).unwrap();
        assert_eq!((application.comment, application.generic_name), (None, None));
        assert_eq!(application.startup_class, "");
        let counts = [
            application.keywords.len(),
            application.categories.len(),
            application.mime_types.len(),
            application.actions.len(),
        ];
        assert_eq!(counts, [64, 32, 256, 32]);
        assert_eq!(parts_left_out, 3 + 6 + 8 + 44 + 8);
    }

    #[test]
    fn texts_become_one_line_of_what_is_shown() {
        let text = "[Desktop Entry]\nType=Application\nName=a\\nb\u{202e}c\u{200c}d\u{7}\nExec=x\n";
        assert_eq!(listed(text).unwrap().application.name.unwrap().plain, "a bcd");
    }
}
