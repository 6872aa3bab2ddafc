//! `apps`: the applications of a guest.

use super::arguments::JsonName;
use super::output;
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use proto::v1::{Application, ApplicationsReply, Text, VmRequest};
use serde::Serialize;
use std::collections::BTreeMap;

/// Most bytes of an answer: what the sessions of one VM may tell together.
const ANSWER: usize = 128 << 20;

pub(super) fn list(arguments: &JsonName) -> Result<(), Problem> {
    let name = &arguments.name;
    let request = VmRequest { name: name.clone() };
    let reply = block_on(async {
        let daemon = daemon().await?;
        Ok(daemon.max_decoding_message_size(ANSWER).applications(request).await?.into_inner())
    })?;
    if arguments.json {
        return output::print_json(&View::from(&reply));
    }
    if reply.applications.is_empty() {
        eprintln!("no applications of VM \"{name}\" are known: its guest's agent tells them");
    } else if reply.remembered {
        eprintln!("as they were when a session of VM \"{name}\" was last connected");
    }
    output::print(&table(&reply))
}

/// For people: what stands in menus.
fn table(reply: &ApplicationsReply) -> String {
    let shown: Vec<&Application> =
        reply.applications.iter().filter(|application| !application.hidden).collect();
    if shown.is_empty() {
        return String::new();
    }
    let mut rows = vec![["APPLICATION", "NAME", "CATEGORIES"].map(str::to_owned).to_vec()];
    for application in shown {
        let name = plain(application.name.as_ref()).to_owned();
        rows.push(vec![application.id.clone(), name, application.categories.join(", ")]);
    }
    output::table(&rows)
}

fn plain(text: Option<&Text>) -> &str {
    text.map_or("", |text| text.plain.as_str())
}

#[derive(Debug, Serialize)]
struct View<'a> {
    remembered: bool,
    applications: Vec<ApplicationView<'a>>,
}

#[derive(Debug, Serialize)]
struct ApplicationView<'a> {
    id: &'a str,
    name: &'a str,
    names: BTreeMap<&'a str, &'a str>,
    comment: &'a str,
    generic_name: &'a str,
    keywords: &'a [String],
    categories: &'a [String],
    mime_types: &'a [String],
    startup_class: &'a str,
    actions: Vec<ActionView<'a>>,
    terminal: bool,
    hidden: bool,
    opens: bool,
}

#[derive(Debug, Serialize)]
struct ActionView<'a> {
    id: &'a str,
    name: &'a str,
}

impl<'a> From<&'a ApplicationsReply> for View<'a> {
    fn from(reply: &'a ApplicationsReply) -> Self {
        let applications = reply.applications.iter().map(ApplicationView::from).collect();
        Self { remembered: reply.remembered, applications }
    }
}

impl<'a> From<&'a Application> for ApplicationView<'a> {
    fn from(application: &'a Application) -> Self {
        let translations = application.name.as_ref().map(|name| &name.translations[..]);
        Self {
            id: &application.id,
            name: plain(application.name.as_ref()),
            names: translations
                .unwrap_or_default()
                .iter()
                .map(|name| (name.language.as_str(), name.text.as_str()))
                .collect(),
            comment: plain(application.comment.as_ref()),
            generic_name: plain(application.generic_name.as_ref()),
            keywords: &application.keywords,
            categories: &application.categories,
            mime_types: &application.mime_types,
            startup_class: &application.startup_class,
            actions: application
                .actions
                .iter()
                .map(|action| ActionView { id: &action.id, name: plain(action.name.as_ref()) })
                .collect(),
            terminal: application.terminal,
            hidden: application.hidden,
            opens: application.opens,
        }
    }
}
