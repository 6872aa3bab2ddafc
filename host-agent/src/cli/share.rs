//! `share`: folders of the host in the guest.

use super::arguments::ShareCommand;
use super::machine::absolute;
use super::output;
use super::vm::{block_on, daemon};
use crate::problem::Problem;
use proto::v1;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;

/// A share in JSON.
#[derive(Debug, Serialize)]
struct View<'a> {
    tag: &'a str,
    path: String,
    read_only: bool,
    way: &'a str,
    portal: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    state: &'a str,
}

impl<'a> From<&'a v1::SharedFolder> for View<'a> {
    fn from(share: &'a v1::SharedFolder) -> Self {
        Self {
            tag: &share.tag,
            path: String::from_utf8_lossy(&share.path).into_owned(),
            read_only: share.read_only,
            way: &share.way,
            portal: share.portal,
            state: &share.state,
        }
    }
}

fn table(shares: &[v1::SharedFolder]) -> String {
    let mut rows = vec![["TAG", "FOLDER", "ACCESS", "BY", "STATE"].map(str::to_owned).to_vec()];
    for share in shares.iter().map(View::from) {
        let access = if share.read_only { "read" } else { "write" };
        let way = if share.portal {
            format!("{}, single files", share.way)
        } else {
            share.way.to_owned()
        };
        rows.push(vec![
            share.tag.to_owned(),
            share.path,
            access.to_owned(),
            way,
            share.state.to_owned(),
        ]);
    }
    output::table(&rows)
}

pub(super) fn dispatch(command: ShareCommand) -> Result<(), Problem> {
    block_on(async {
        match command {
            ShareCommand::Add { name, path, tag, read_only } => {
                let path = absolute(&path)?.as_os_str().as_bytes().to_vec();
                let tag = tag.unwrap_or_default();
                let request = v1::AddShareRequest { name, path, tag, read_only };
                let reply = daemon().await?.add_share(request).await?.into_inner();
                output::print(&table(&reply.shares))
            }
            ShareCommand::List(arguments) => {
                let request = v1::VmRequest { name: arguments.name.clone() };
                let shares = daemon().await?.shares(request).await?.into_inner().shares;
                if arguments.json {
                    let views: Vec<View<'_>> = shares.iter().map(View::from).collect();
                    return output::print_json(&serde_json::json!({ "shares": views }));
                }
                if shares.is_empty() {
                    eprintln!("VM \"{}\" has no shares; `share add` makes one", arguments.name);
                    return Ok(());
                }
                output::print(&table(&shares))
            }
            ShareCommand::Remove { name, tag } => {
                let request = v1::RemoveShareRequest { name: name.clone(), tag: tag.clone() };
                let reply = daemon().await?.remove_share(request).await?.into_inner();
                let left = reply.shares.iter().find(|share| share.tag == tag);
                let state = left.map_or(String::new(), |share| format!(": {}", share.state));
                output::print(&format!("VM \"{name}\" has no share \"{tag}\" any more{state}\n"))
            }
        }
    })
}
