//! Checks the list of applications that a guest tells.

use super::limits;
use crate::untrusted::Untrusted;
use prost::Message;
use proto::v1::{Action, Application, ApplicationList, Text};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// A list that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListProblem {
    /// Too many.
    #[error("the list has {0} applications; allowed: {most}", most = limits::APPLICATIONS)]
    Long(usize),
    /// Not sorted, or one twice.
    #[error("application {0} of the list does not come after the one before it")]
    Order(usize),
    /// The digest is another.
    #[error("the list's digest is not that of its applications")]
    Digest,
}

/// A list that was checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// Those within the limits, sorted by id.
    pub applications: Vec<Application>,
    /// How many were left out, by reason.
    pub left_out: BTreeMap<&'static str, usize>,
}

/// The digest of applications, as `ApplicationList.digest` has it.
#[must_use]
pub fn digest(applications: &[Application]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut encoded = Vec::new();
    for application in applications {
        encoded.clear();
        // A vector takes any length.
        let _ = application.encode(&mut encoded);
        hash.update(&encoded);
    }
    hash.finalize().into()
}

/// What of a guest's list may be used.
///
/// # Errors
/// The list itself is not one that an agent may send.
pub fn check(list: Untrusted<ApplicationList>) -> Result<Checked, ListProblem> {
    list.check(|list| {
        let applications = list.applications;
        if applications.len() > limits::APPLICATIONS {
            return Err(ListProblem::Long(applications.len()));
        }
        let disorder = applications.windows(2).position(|pair| match pair {
            [before, after] => before.id >= after.id,
            _ => false,
        });
        if let Some(before) = disorder {
            return Err(ListProblem::Order(before + 1));
        }
        if digest(&applications)[..] != list.digest[..] {
            return Err(ListProblem::Digest);
        }
        let mut checked = Checked::default();
        for application in applications {
            match check_one(&application) {
                Ok(()) => checked.applications.push(application),
                Err(reason) => *checked.left_out.entry(reason).or_default() += 1,
            }
        }
        Ok(checked)
    })
}

/// Whether `id` can be that of an application.
#[must_use]
pub fn is_id(id: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    (1..=limits::ID).contains(&id.len()) && id.bytes().all(allowed)
}

/// Whether `id` can be that of an action.
#[must_use]
pub fn is_action_id(id: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    (1..=limits::ACTION_ID).contains(&id.len()) && id.bytes().all(allowed)
}

/// Nothing, or the limit that is broken. An application is taken whole or not at all.
fn check_one(application: &Application) -> Result<(), &'static str> {
    let need = |good: bool, reason| if good { Ok(()) } else { Err(reason) };
    let each = |values: &[String], most: usize, good: fn(&str) -> bool, reason| {
        need(values.len() <= most && values.iter().all(|value| good(value)), reason)
    };
    need(is_id(&application.id), "id")?;
    text(application.name.as_ref(), limits::NAME, "name")?;
    text(application.comment.as_ref(), limits::COMMENT, "comment")?;
    text(application.generic_name.as_ref(), limits::NAME, "generic name")?;
    each(&application.keywords, limits::KEYWORDS, is_keyword, "keywords")?;
    each(&application.categories, limits::CATEGORIES, is_category, "categories")?;
    each(&application.mime_types, limits::MIME_TYPES, is_mime_type, "MIME types")?;
    line(&application.startup_class, limits::STARTUP_CLASS, "startup class")?;
    need(application.actions.len() <= limits::ACTIONS, "actions")?;
    let mut ids = BTreeSet::new();
    for Action { id, name } in &application.actions {
        need(is_action_id(id) && ids.insert(id), "actions")?;
        text(name.as_ref(), limits::NAME, "actions")?;
    }
    Ok(())
}

fn line(value: &str, most: usize, reason: &'static str) -> Result<(), &'static str> {
    let checked = Untrusted::new(value.to_owned()).line(reason, most);
    checked.map(|_| ()).map_err(|_| reason)
}

fn text(text: Option<&Text>, most: usize, reason: &'static str) -> Result<(), &'static str> {
    let Some(text) = text else {
        return Ok(());
    };
    line(&text.plain, most, reason)?;
    let mut languages = BTreeSet::new();
    let translated = text.translations.len() <= limits::LANGUAGES
        && text.translations.iter().all(|translation| {
            is_language(&translation.language)
                && languages.insert(&translation.language)
                && line(&translation.text, most, reason).is_ok()
        });
    if translated { Ok(()) } else { Err(reason) }
}

fn is_keyword(keyword: &str) -> bool {
    line(keyword, limits::KEYWORD, "keywords").is_ok()
}

/// As the menu specification names them; `;` would begin the next.
fn is_category(category: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
    (1..=limits::CATEGORY).contains(&category.len()) && category.bytes().all(allowed)
}

/// RFC 6838 4.2: restricted names on both sides of one slash.
fn is_mime_type(value: &str) -> bool {
    let restricted = |part: &str| {
        part.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&c))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    value.len() <= limits::MIME_TYPE
        && value.split_once('/').is_some_and(|(kind, name)| restricted(kind) && restricted(name))
}

/// A locale's name without encoding: `de`, `de_AT`, `sr_RS@latin`, `es_419`.
fn is_language(name: &str) -> bool {
    let (rest, modifier) = match name.split_once('@') {
        Some((rest, modifier)) => (rest, Some(modifier)),
        None => (name, None),
    };
    let (language, country) = match rest.split_once('_') {
        Some((language, country)) => (language, Some(country)),
        None => (rest, None),
    };
    let letters = |part: &str, lengths: std::ops::RangeInclusive<usize>, good: fn(&u8) -> bool| {
        lengths.contains(&part.len()) && part.as_bytes().iter().all(good)
    };
    name.len() <= limits::LANGUAGE
        && letters(language, 2..=8, u8::is_ascii_lowercase)
        && country.is_none_or(|country| {
            letters(country, 2..=2, u8::is_ascii_uppercase)
                || letters(country, 3..=3, u8::is_ascii_digit)
        })
        && modifier.is_none_or(|modifier| letters(modifier, 1..=16, u8::is_ascii_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::Translation;

    fn named(id: &str) -> Application {
        let name = Some(Text { plain: "Editor".into(), translations: Vec::new() });
        Application { id: id.into(), name, ..Application::default() }
    }

    fn list(applications: Vec<Application>) -> Untrusted<ApplicationList> {
        let digest = digest(&applications).to_vec();
        Untrusted::new(ApplicationList { generation: 1, digest, applications })
    }

    fn text(plain: &str, translations: &[(&str, &str)]) -> Option<Text> {
        let one = |(language, text): &(&str, &str)| Translation {
            language: (*language).into(),
            text: (*text).into(),
        };
        Some(Text { plain: plain.into(), translations: translations.iter().map(one).collect() })
    }

    /// Why it is left out.
    fn reason(change: impl FnOnce(&mut Application)) -> Option<&'static str> {
        let mut application = named("a");
        change(&mut application);
        let checked = check(list(vec![application])).unwrap();
        assert_eq!(checked.applications.len() + checked.left_out.len(), 1);
        checked.left_out.into_keys().next()
    }

    #[test]
    fn a_list_is_sorted_whole_and_what_its_digest_says() {
        let many = |count| (0..count).map(|n| named(&format!("{n:08}"))).collect::<Vec<_>>();
        assert_eq!(check(list(many(2048))).unwrap().applications.len(), 2048);
        assert_eq!(check(list(many(2049))), Err(ListProblem::Long(2049)));
        for ids in [["b", "a"], ["a", "a"]] {
            let problem = check(list(ids.map(named).into())).unwrap_err();
            assert_eq!(problem, ListProblem::Order(1));
        }
        for digest in [Vec::new(), vec![0; 32], vec![0; 1000]] {
            let applications = vec![named("a")];
            let lying = ApplicationList { generation: 1, digest, applications };
            assert_eq!(check(Untrusted::new(lying)), Err(ListProblem::Digest));
        }
        assert_eq!(check(list(Vec::new())), Ok(Checked::default()));
    }

    #[test]
    fn what_is_within_the_limits_is_taken_as_it_is() {
        let full = Application {
            name: text("Grüße", &[("de_AT", "Grüaß"), ("sr@latin", "x"), ("es_419", "y")]),
            comment: text(&"x".repeat(256), &[]),
            keywords: vec!["a;b".into(); 64],
            categories: vec!["X-GNOME-Utilities".into(), "2DGraphics".into()],
            mime_types: vec!["application/vnd.oasis.opendocument.text-master".into()],
            startup_class: "org.x Y".into(),
            actions: vec![Action { id: "new-window".into(), name: text("New", &[]) }],
            ..named("org.gnome.Text-Editor_2")
        };
        assert_eq!(check(list(vec![full.clone()])).unwrap().applications, [full]);
    }

    #[test]
    fn what_breaks_a_limit_is_left_out_and_counted() {
        let long = "x".repeat(1000);
        for id in ["", "a/b", "..\n", "a b", "ä", &"x".repeat(129)] {
            assert_eq!(reason(|a| a.id = id.into()), Some("id"), "{id:?}");
        }
        for bad in ["a\nExec=x", "a\u{202e}", "\u{1b}[m", "a\0", &long] {
            assert_eq!(reason(|a| a.name = text(bad, &[])), Some("name"));
            assert_eq!(reason(|a| a.name = text("x", &[("de", bad)])), Some("name"));
            assert_eq!(reason(|a| a.comment = text(bad, &[])), Some("comment"));
            assert_eq!(reason(|a| a.generic_name = text(bad, &[])), Some("generic name"));
            assert_eq!(reason(|a| a.keywords = vec![bad.into()]), Some("keywords"));
            assert_eq!(reason(|a| a.startup_class = bad.into()), Some("startup class"));
            let action = Action { id: "a".into(), name: text(bad, &[]) };
            assert_eq!(reason(|a| a.actions = vec![action]), Some("actions"));
        }
        for bad in ["de]\nExec=x\n[", "DE", "d", "de_at", "de__AT", "de.UTF-8", "de@", "", &long] {
            assert_eq!(reason(|a| a.name = text("x", &[(bad, "y")])), Some("name"), "{bad}");
        }
        assert_eq!(reason(|a| a.name = text("x", &[("de", "y"), ("de", "z")])), Some("name"));
        for bad in ["", "a;b", "a\nb", "a b", "ä", &long] {
            assert_eq!(reason(|a| a.categories = vec![bad.into()]), Some("categories"), "{bad}");
        }
        for bad in ["", "a", "a/", "/b", "a/b/c", "a/b;c", "a/b\nc", "a b/c", "*/*", "a/%f", &long]
        {
            assert_eq!(reason(|a| a.mime_types = vec![bad.into()]), Some("MIME types"), "{bad}");
        }
        for bad in ["", "a.b", "a b", "a]", &long] {
            let action = Action { id: bad.into(), name: text("x", &[]) };
            assert_eq!(reason(|a| a.actions = vec![action]), Some("actions"), "{bad}");
        }
        let twice = vec![Action { id: "a".into(), name: None }; 2];
        assert_eq!(reason(|a| a.actions = twice), Some("actions"));
        assert_eq!(reason(|a| a.keywords = vec!["x".into(); 65]), Some("keywords"));
        assert_eq!(reason(|a| a.categories = vec!["x".into(); 33]), Some("categories"));
        assert_eq!(reason(|a| a.mime_types = vec!["x/y".into(); 257]), Some("MIME types"));
    }

    #[test]
    fn one_bad_application_leaves_the_others() {
        let bad = Application { categories: vec!["\n".into()], ..named("b") };
        let checked = check(list(vec![named("a"), bad, named("c")])).unwrap();
        let ids: Vec<_> = checked.applications.iter().map(|a| a.id.as_str()).collect();
        assert_eq!((ids, checked.left_out["categories"]), (vec!["a", "c"], 1));
    }
}
