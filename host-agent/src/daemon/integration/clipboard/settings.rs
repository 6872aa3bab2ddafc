//! The policy, read and changed in the definition.

use super::About;
use crate::problem::Problem;
use definition::ClipboardPolicy;
use definition::toml_edit::{Array, Value};
use proto::v1::{self, ClipboardFormat, ClipboardReply, ClipboardRequest};
use std::collections::BTreeSet;

/// Changes what the request names. False when it names nothing.
pub(super) fn change(about: &About, request: &ClipboardRequest) -> Result<bool, Problem> {
    let unknown = |what: &str, number| Problem::usage(format!("there is no {what} {number}"));
    let mut settings: Vec<(&str, Value)> = Vec::new();
    let policy = v1::ClipboardPolicy::try_from(request.policy)
        .map_err(|_| unknown("clipboard policy", request.policy))?;
    let word = match policy {
        v1::ClipboardPolicy::Unspecified => None,
        v1::ClipboardPolicy::Off => Some("off"),
        v1::ClipboardPolicy::ToGuest => Some("to-guest"),
        v1::ClipboardPolicy::ToHost => Some("to-host"),
        v1::ClipboardPolicy::Both => Some("both"),
        v1::ClipboardPolicy::Ask => Some("ask"),
    };
    settings.extend(word.map(|word| ("policy", Value::from(word))));
    if let Some(formats) = &request.formats {
        let mut words = BTreeSet::new();
        for number in &formats.formats {
            words.insert(match ClipboardFormat::try_from(*number) {
                Ok(ClipboardFormat::Text) => "text",
                Ok(ClipboardFormat::Html) => "html",
                Ok(ClipboardFormat::Png) => "image",
                Ok(ClipboardFormat::Files) => "files",
                Ok(ClipboardFormat::Unspecified) | Err(_) => {
                    return Err(unknown("clipboard format", *number));
                }
            });
        }
        settings.push(("formats", Value::Array(words.into_iter().collect::<Array>())));
    }
    settings.extend(request.primary.map(|primary| ("primary", Value::from(primary))));
    if settings.is_empty() {
        return Ok(false);
    }
    about.store.change(&about.vm, |document| {
        for (key, value) in settings {
            definition::set(document, "clipboard", key, value);
        }
    })?;
    Ok(true)
}

pub(super) fn reply(about: &About, desktop: String) -> Result<ClipboardReply, Problem> {
    let clipboard = about.store.load(&about.vm)?.clipboard;
    let policy = match clipboard.policy {
        ClipboardPolicy::Off => v1::ClipboardPolicy::Off,
        ClipboardPolicy::ToGuest => v1::ClipboardPolicy::ToGuest,
        ClipboardPolicy::ToHost => v1::ClipboardPolicy::ToHost,
        ClipboardPolicy::Both => v1::ClipboardPolicy::Both,
        ClipboardPolicy::Ask => v1::ClipboardPolicy::Ask,
    };
    let formats = clipboard.formats.iter().map(|format| match format {
        definition::ClipboardFormat::Text => ClipboardFormat::Text.into(),
        definition::ClipboardFormat::Html => ClipboardFormat::Html.into(),
        definition::ClipboardFormat::Image => ClipboardFormat::Png.into(),
        definition::ClipboardFormat::Files => ClipboardFormat::Files.into(),
    });
    let formats = formats.collect();
    Ok(ClipboardReply { policy: policy.into(), formats, primary: clipboard.primary, desktop })
}
