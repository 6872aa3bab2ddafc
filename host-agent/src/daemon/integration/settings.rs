//! The definition's `[integration]`, read and changed for a client.

use super::{About, Integration};
use crate::problem::Problem;
use definition::Permission;
use definition::toml_edit::DocumentMut;
use proto::v1::{self, IntegrationReply, IntegrationRequest};

const TABLE: &str = "integration";

pub(super) fn settings(
    integration: &Integration,
    about: &About,
    request: &IntegrationRequest,
) -> Result<IntegrationReply, Problem> {
    let IntegrationRequest { name: _, open_url, notifications, launchers, open_with, bus_control } =
        request;
    let open_url = permission(*open_url)?;
    let switches = [
        ("notifications", notifications),
        ("launchers", launchers),
        ("open-with", open_with),
        ("bus-control", bus_control),
    ];
    let change = |document: &mut DocumentMut| {
        if let Some(open_url) = open_url {
            definition::set(document, TABLE, "open-url", open_url);
        }
        for (key, value) in switches {
            if let Some(value) = value {
                definition::set(document, TABLE, key, *value);
            }
        }
    };
    let asked = open_url.is_some() || switches.iter().any(|(_, value)| value.is_some());
    let now = if asked {
        let now = about.store.change(&about.vm, change)?;
        integration.changed();
        now
    } else {
        about.store.load(&about.vm)?
    };
    let now = now.integration;
    let open_url = match now.open_url {
        Permission::Off => v1::Permission::Off,
        Permission::Ask => v1::Permission::Ask,
        Permission::Allow => v1::Permission::Allow,
    };
    Ok(IntegrationReply {
        open_url: open_url.into(),
        notifications: now.notifications,
        launchers: now.launchers,
        open_with: now.open_with,
        bus_control: now.bus_control,
    })
}

/// The word that stands in the definition; none where nothing is asked for.
fn permission(number: i32) -> Result<Option<&'static str>, Problem> {
    match v1::Permission::try_from(number) {
        Ok(v1::Permission::Unspecified) => Ok(None),
        Ok(v1::Permission::Off) => Ok(Some("off")),
        Ok(v1::Permission::Ask) => Ok(Some("ask")),
        Ok(v1::Permission::Allow) => Ok(Some("allow")),
        Err(_) => Err(Problem::usage(format!("there is no permission {number}"))),
    }
}
