//! Which languages this host's user reads: a guest's programs are named in these.

/// As `ReadyReply.languages` says.
const MOST: usize = 8;
const LONGEST: usize = 32;

/// The daemon's own: those of `LANGUAGE`, then that of its messages (locale(7), gettext's manual,
/// "Locale Environment Variables").
pub(super) fn languages() -> Vec<String> {
    from(|name| std::env::var(name).ok())
}

fn from(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].iter().find_map(set);
    // Where messages are not translated, `LANGUAGE` does not count.
    let Some(locale) = locale.as_deref().and_then(name) else {
        return Vec::new();
    };
    let list = variable("LANGUAGE").unwrap_or_default();
    let mut languages = Vec::new();
    for language in list.split(':').filter_map(name).chain([locale]) {
        if !languages.contains(&language) && languages.len() < MOST {
            languages.push(language);
        }
    }
    languages
}

/// A locale's name without its encoding; `None` for one that is no language.
fn name(locale: &str) -> Option<String> {
    let (before, modifier) = match locale.split_once('@') {
        Some((before, modifier)) => (before, format!("@{modifier}")),
        None => (locale, String::new()),
    };
    let language = before.split('.').next().unwrap_or_default();
    let name = format!("{language}{modifier}");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@-".contains(&byte);
    let fits =
        !matches!(language, "" | "C" | "POSIX") && name.len() <= LONGEST && name.bytes().all(plain);
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_those_of_the_environment_without_encodings() {
        for (variables, expected) in [
            (&[("LANG", "de_AT.UTF-8")][..], &["de_AT"][..]),
            (&[("LANG", "de_AT.UTF-8"), ("LC_MESSAGES", "fr_FR")], &["fr_FR"]),
            (
                &[("LANG", "de"), ("LC_ALL", "sr_RS.UTF-8@latin"), ("LC_MESSAGES", "fr")],
                &["sr_RS@latin"],
            ),
            (
                &[("LANG", "de_AT.UTF-8"), ("LANGUAGE", "de_CH:de::en:de")],
                &["de_CH", "de", "en", "de_AT"],
            ),
            (&[("LANG", "C.UTF-8"), ("LANGUAGE", "de")], &[]),
            (&[("LANG", "POSIX")], &[]),
            (&[("LANG", ""), ("LC_ALL", "")], &[]),
            (&[("LANGUAGE", "de")], &[]),
            (
                &[("LANG", "de"), ("LANGUAGE", "../x:a]b:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")],
                &["de"],
            ),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(from(variable), expected, "{variables:?}");
        }
        let many = (0..20).map(|n| format!("x{n}:")).collect::<String>();
        let variable =
            |name: &str| Some(if name == "LANGUAGE" { many.clone() } else { "de".into() });
        assert_eq!(from(variable).len(), MOST);
    }
}
