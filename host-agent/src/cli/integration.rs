//! `integration`: what of a VM reaches the desktop.

use super::arguments::{IntegrationArguments, PermissionArgument, Switch};
use super::output;
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use proto::v1::{IntegrationReply, IntegrationRequest, Permission};

pub(super) fn settings(arguments: IntegrationArguments) -> Result<(), Problem> {
    let open_url = match arguments.open_url {
        None => Permission::Unspecified,
        Some(PermissionArgument::Off) => Permission::Off,
        Some(PermissionArgument::Ask) => Permission::Ask,
        Some(PermissionArgument::Allow) => Permission::Allow,
    };
    let switch = |switch: Option<Switch>| switch.map(|switch| matches!(switch, Switch::On));
    let request = IntegrationRequest {
        name: arguments.name,
        open_url: open_url.into(),
        notifications: switch(arguments.notifications),
        launchers: switch(arguments.launchers),
        open_with: switch(arguments.open_with),
        bus_control: switch(arguments.bus_control),
    };
    let reply = block_on(async { Ok(daemon().await?.integration(request).await?.into_inner()) })?;
    let open_url = word(&reply);
    if arguments.json {
        return output::print_json(&serde_json::json!({
            "open-url": open_url,
            "notifications": reply.notifications,
            "launchers": reply.launchers,
            "open-with": reply.open_with,
            "bus-control": reply.bus_control,
        }));
    }
    let switch = |on: bool| if on { "on" } else { "off" };
    let rows = [
        ("open-url", open_url),
        ("notifications", switch(reply.notifications)),
        ("launchers", switch(reply.launchers)),
        ("open-with", switch(reply.open_with)),
        ("bus-control", switch(reply.bus_control)),
    ];
    output::print(&output::table(&rows.map(|(key, value)| vec![key.to_owned(), value.to_owned()])))
}

fn word(reply: &IntegrationReply) -> &'static str {
    match reply.open_url() {
        Permission::Off => "off",
        Permission::Ask => "ask",
        Permission::Allow => "allow",
        Permission::Unspecified => "unknown",
    }
}
