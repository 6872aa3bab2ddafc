//! The syntax of desktop files and icon themes: groups of keys with values (Desktop Entry Specification
//! 1.5, sections 3 and 4).
//!
//! A line that is none is passed over, so that one bad line spoils nothing else; of two equal keys the
//! first counts.

use std::collections::BTreeMap;

/// Groups and their keys, as they stand in the file.
#[derive(Clone, Debug, Default)]
pub struct KeyFile<'a> {
    groups: BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>,
}

/// The keys of one group.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a>(&'a BTreeMap<&'a str, &'a str>);

impl<'a> KeyFile<'a> {
    /// Reads a file. Whatever it contains, there is a result; lines that are not UTF-8 are passed over.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut file = Self::default();
        let mut group = None;
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            let line = line.trim_ascii();
            if let Some(rest) = line.strip_prefix('[') {
                group = rest.rfind(']').map(|end| &rest[..end]);
                if let Some(name) = group {
                    file.groups.entry(name).or_default();
                }
            } else if let Some(name) = group
                && let Some((key, value)) = line.split_once('=')
                && is_key(key.trim_ascii_end())
            {
                let keys = file.groups.entry(name).or_default();
                keys.entry(key.trim_ascii_end()).or_insert(value.trim_ascii_start());
            }
        }
        file
    }

    /// The group of this name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<Group<'_>> {
        self.groups.get(name).map(Group)
    }
}

/// Letters, digits and `-`, perhaps with a language in brackets. A comment's `#` is none of them.
fn is_key(text: &str) -> bool {
    let name = match text.split_once('[') {
        Some((name, language)) if language.ends_with(']') => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Group<'_> {
    fn raw(&self, key: &str) -> Option<&str> {
        self.0.get(key).copied()
    }

    /// A key's text; `None` when it is missing or empty.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.raw(key).map(unescape).filter(|text| !text.is_empty())
    }

    /// A key's text in a language, where there is one ("Localized values for keys").
    #[must_use]
    pub fn translated(&self, key: &str, language: &str) -> Option<String> {
        self.in_language(key, language).map(unescape).filter(|text| !text.is_empty())
    }

    /// The items of a key, in the first of the languages that has it.
    #[must_use]
    pub fn translated_list(&self, key: &str, languages: &[String]) -> Vec<String> {
        let translated = languages.iter().find_map(|language| self.in_language(key, language));
        translated.or_else(|| self.raw(key)).map(split).unwrap_or_default()
    }

    /// The items of a key.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<String> {
        self.raw(key).map(split).unwrap_or_default()
    }

    /// Whether a key says `true`.
    #[must_use]
    pub fn flag(&self, key: &str) -> bool {
        self.raw(key) == Some("true")
    }

    /// A number; `None` when there is none in the key.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u32> {
        self.raw(key)?.parse().ok()
    }

    fn in_language(&self, key: &str, language: &str) -> Option<&str> {
        let (locale, modifier) = match language.split_once('@') {
            Some((locale, modifier)) => (locale, Some(modifier)),
            None => (language, None),
        };
        let (name, country) = match locale.split_once('_') {
            Some((name, country)) => (name, Some(country)),
            None => (locale, None),
        };
        let full = country.zip(modifier);
        let tries = [
            full.map(|(country, modifier)| format!("{key}[{name}_{country}@{modifier}]")),
            country.map(|country| format!("{key}[{name}_{country}]")),
            modifier.map(|modifier| format!("{key}[{name}@{modifier}]")),
            Some(format!("{key}[{name}]")),
        ];
        tries.into_iter().flatten().find_map(|key| self.raw(&key))
    }
}

/// The character that stands for an escape sequence; `None` when the specification has no such sequence,
/// which then stays as it is.
fn escaped(character: char) -> Option<char> {
    match character {
        's' => Some(' '),
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        '\\' => Some('\\'),
        _ => None,
    }
}

fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, characters.clone().next()) {
            ('\\', Some(next)) => {
                characters.next();
                match escaped(next) {
                    Some(character) => text.push(character),
                    None => text.extend(['\\', next]),
                }
            }
            _ => text.push(character),
        }
    }
    text
}

/// Items end at `;`; one of an item's own is written `\;`. Empty items are none.
fn split(value: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        let (escape, item) = (characters.clone().next(), items.last_mut().expect("never empty"));
        match (character, escape) {
            (';', _) => items.push(String::new()),
            ('\\', Some(next)) => {
                characters.next();
                match (next, escaped(next)) {
                    (';', _) => item.push(';'),
                    (_, Some(character)) => item.push(character),
                    (_, None) => item.extend(['\\', next]),
                }
            }
            _ => item.push(character),
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str, key: &str) -> Option<String> {
        KeyFile::parse(text.as_bytes()).group("Desktop Entry")?.text(key)
    }

    #[test]
    fn a_bad_line_spoils_nothing_else() {
        let text = b"\xef\xbb\xbfKey=before any group\n# [Desktop Entry]\n[Desktop Entry]\r\nno value\n=x\n\
            Name[=bad\nA B=c\nName = A name \r\nName=another\n\xff\xfe=\xff\nGenericName=\xff\n[broken\nIcon=x\n\
            [Desktop Entry]\nComment=still\n";
        let file = KeyFile::parse(text);
        let group = file.group("Desktop Entry").unwrap();
        assert_eq!(group.text("Name").as_deref(), Some("A name"));
        assert_eq!(group.text("Comment").as_deref(), Some("still"));
        for key in ["Key", "GenericName", "Icon", "A B", "", "Name["] {
            assert_eq!(group.text(key), None, "{key}");
        }
        assert!(file.group("broken").is_none());
    }

    #[test]
    fn escapes_are_those_of_the_specification() {
        for (raw, text) in [
            (r"a\sb\nc\td\re\\f", "a b\nc\td\re\\f"),
            (r"\\n", "\\n"),
            (r"\q\", "\\q\\"),
            (r"\;", "\\;"),
        ] {
            assert_eq!(value(&format!("[Desktop Entry]\nX={raw}"), "X").as_deref(), Some(text));
        }
        let file = KeyFile::parse(
            br"[g]
A=one;two\;three;;\sfour\\;five
B=
C=;;
",
        );
        let group = file.group("g").unwrap();
        assert_eq!(group.list("A"), ["one", "two;three", " four\\", "five"]);
        assert!(group.list("B").is_empty() && group.list("C").is_empty());
        assert_eq!(group.text("B"), None);
    }

    #[test]
    fn the_nearest_language_is_taken() {
        // The specification's table of lookups.
        let file = KeyFile::parse(
            b"[g]\nN=plain\nN[sr_YU]=1\nN[sr@Latn]=2\nN[sr]=3\nN[de_AT@euro]=4\nK=a;b;\nK[de]=c;\n",
        );
        let group = file.group("g").unwrap();
        for (language, found) in [
            ("sr_YU@Latn", Some("1")),
            ("sr_YU", Some("1")),
            ("sr@Latn", Some("2")),
            ("sr_RS@Latn", Some("2")),
            ("sr_RS", Some("3")),
            ("de_AT@euro", Some("4")),
            ("de_AT", None),
            ("", None),
        ] {
            assert_eq!(group.translated("N", language).as_deref(), found, "{language}");
        }
        assert_eq!(group.translated_list("K", &["fr".into(), "de_CH".into()]), ["c"]);
        assert_eq!(group.translated_list("K", &["fr".into()]), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_file(bytes: Vec<u8>) {
            let file = KeyFile::parse(&bytes);
            for group in file.groups.values().map(Group) {
                for key in group.0.keys() {
                    let _ = (group.text(key), group.list(key), group.translated(key, "de_AT@x"));
                }
            }
        }

        // Another reader, on the files that both take.
        #[test]
        fn a_plain_file_says_what_another_reader_says(
            texts in proptest::collection::btree_map("X-[A-Za-z0-9]{1,8}", "[a-zA-Zäß€][ a-z]{0,4}(\\\\[snrt\\\\]|[=#\"%$x]){0,6}x", 1..8),
        ) {
            let mut text = "[Desktop Entry]\nType=Application\n".to_owned();
            for (key, value) in &texts {
                text += &format!("{key}={value}\n{key}[de]={value}y\n");
            }
            let theirs = freedesktop_desktop_entry::DesktopEntry::from_str(
                "/x/applications/a.desktop", &text, Some(&["de"])).unwrap();
            let file = KeyFile::parse(text.as_bytes());
            let group = file.group("Desktop Entry").unwrap();
            for key in texts.keys() {
                let (plain, translations) = &theirs.groups.desktop_entry().unwrap().0[key];
                prop_assert_eq!(&group.text(key).unwrap(), plain);
                prop_assert_eq!(&group.translated(key, "de").unwrap(), &translations["de"]);
            }
        }
    }
}
