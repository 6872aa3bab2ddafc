//! `clipboard`: what a VM may do with the clipboard.

use super::arguments::{ClipboardArguments, FormatArgument, PolicyArgument, Switch};
use super::output;
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use proto::v1::{self, ClipboardFormat, ClipboardPolicy};
use serde::Serialize;

/// The settings in JSON, and for people.
#[derive(Debug, Serialize)]
struct View {
    policy: &'static str,
    formats: Vec<&'static str>,
    primary: bool,
    desktop: String,
}

pub(super) fn clipboard(arguments: ClipboardArguments) -> Result<(), Problem> {
    let json = arguments.json;
    let request = request(arguments);
    let reply = block_on(async { Ok(daemon().await?.clipboard(request).await?.into_inner()) })?;
    let view = View::from(reply);
    if json {
        return output::print_json(&view);
    }
    let formats = match view.formats.is_empty() {
        true => "none".to_owned(),
        false => view.formats.join(", "),
    };
    let primary = if view.primary { "on" } else { "off" };
    let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    output::print(&output::table(&[
        row("policy", view.policy),
        row("formats", &formats),
        row("primary", primary),
        row("desktop", &view.desktop),
    ]))
}

fn request(arguments: ClipboardArguments) -> v1::ClipboardRequest {
    let policy = match arguments.policy {
        None => ClipboardPolicy::Unspecified,
        Some(PolicyArgument::Off) => ClipboardPolicy::Off,
        Some(PolicyArgument::ToGuest) => ClipboardPolicy::ToGuest,
        Some(PolicyArgument::ToHost) => ClipboardPolicy::ToHost,
        Some(PolicyArgument::Both) => ClipboardPolicy::Both,
        Some(PolicyArgument::Ask) => ClipboardPolicy::Ask,
    };
    let formats = arguments.formats.iter().map(|format| match format {
        FormatArgument::Text => ClipboardFormat::Text.into(),
        FormatArgument::Html => ClipboardFormat::Html.into(),
        FormatArgument::Image => ClipboardFormat::Png.into(),
        FormatArgument::Files => ClipboardFormat::Files.into(),
    });
    let formats: Vec<i32> = formats.collect();
    v1::ClipboardRequest {
        name: arguments.name,
        policy: policy.into(),
        formats: (!formats.is_empty()).then_some(v1::ClipboardFormats { formats }),
        primary: arguments.primary.map(|primary| primary == Switch::On),
    }
}

impl From<v1::ClipboardReply> for View {
    fn from(reply: v1::ClipboardReply) -> Self {
        let policy = match reply.policy() {
            ClipboardPolicy::Unspecified => "unknown",
            ClipboardPolicy::Off => "off",
            ClipboardPolicy::ToGuest => "to-guest",
            ClipboardPolicy::ToHost => "to-host",
            ClipboardPolicy::Both => "both",
            ClipboardPolicy::Ask => "ask",
        };
        let formats = reply.formats().map(|format| match format {
            ClipboardFormat::Unspecified => "unknown",
            ClipboardFormat::Text => "text",
            ClipboardFormat::Html => "html",
            ClipboardFormat::Png => "image",
            ClipboardFormat::Files => "files",
        });
        Self { policy, formats: formats.collect(), primary: reply.primary, desktop: reply.desktop }
    }
}
