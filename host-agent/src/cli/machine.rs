//! From options to a definition, and the disks that are made on the way.

use super::arguments::MachineArguments;
use super::parse::{NetArgument, ShareArgument};
use crate::contents;
use crate::problem::Problem;
use definition::{Boot, Disk, Network, NetworkMode, Share, VmDefinition};
use std::path::{Path, PathBuf};

/// What a VM gets that was given no `--net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DefaultNetwork {
    Passt,
    None,
}

/// The definition that the options describe, checked by itself but not against the host.
pub(super) fn definition(
    name: &str,
    options: &MachineArguments,
    default_network: DefaultNetwork,
) -> Result<VmDefinition, Problem> {
    // A unikernel gets the devices it declares and no other.
    let default_network = match options.hvt {
        Some(_) => DefaultNetwork::None,
        None => default_network,
    };
    let disks = options.disks.iter().map(|disk| {
        Ok(Disk {
            path: absolute(&disk.path)?,
            format: disk.format,
            read_only: disk.read_only,
            limit: None,
        })
    });
    let definition = VmDefinition {
        name: name.to_owned(),
        memory: options.memory,
        cpus: options.cpus,
        engine: options.engine.into(),
        huge_pages: options.huge_pages,
        agent: options.agent.into(),
        boot: Boot {
            kernel: optional(options.kernel.as_deref())?,
            hvt: optional(options.hvt.as_deref())?,
            initrd: optional(options.initrd.as_deref())?,
            append: options.append.clone(),
            firmware: optional(options.firmware.as_deref())?,
        },
        disks: disks.collect::<Result<_, Problem>>()?,
        networks: networks(&options.networks, default_network)?,
        shares: options.shares.iter().map(share).collect::<Result<_, Problem>>()?,
        display: options.display,
        clipboard: definition::Clipboard::default(),
        integration: definition::Integration::default(),
        windows: definition::Windows::default(),
    };
    definition.check()?;
    Ok(definition)
}

/// Makes the images that were given a size. They are removed again unless kept: a VM that cannot
/// be made leaves nothing behind.
#[derive(Debug)]
pub(super) struct NewDisks(Vec<PathBuf>);

impl NewDisks {
    pub(super) fn make(options: &MachineArguments) -> Result<Self, Problem> {
        let mut made = Self(Vec::new());
        for disk in &options.disks {
            let Some(size) = disk.size else { continue };
            let options =
                disk::CreateOptions { format: contents::format(disk.format), size, backing: None };
            disk::create(&disk.path, &options).map_err(|error| {
                let problem = Problem::failed(error);
                if disk.path.exists() {
                    return problem.advise("leave size= out to use the image that is there");
                }
                problem
            })?;
            made.0.push(disk.path.clone());
        }
        Ok(made)
    }

    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewDisks {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn networks(
    given: &[NetArgument],
    default_network: DefaultNetwork,
) -> Result<Vec<Network>, Problem> {
    if given.contains(&NetArgument::None) && given.len() > 1 {
        return Err(Problem::usage("--net none is given beside another --net; allowed: either"));
    }
    if given.is_empty() && default_network == DefaultNetwork::Passt {
        return Ok(vec![Network { mode: NetworkMode::Passt, mac: None }]);
    }
    let cards = given.iter().filter_map(|card| match card {
        NetArgument::None => None,
        NetArgument::Card { mode, mac } => Some(Network { mode: mode.clone(), mac: mac.clone() }),
    });
    Ok(cards.collect())
}

fn share(argument: &ShareArgument) -> Result<Share, Problem> {
    let path = absolute(&argument.path)?;
    let tag = match &argument.tag {
        Some(tag) => tag.clone(),
        None => tag_of(&path),
    };
    Ok(Share { tag, path, kind: argument.kind, read_only: argument.read_only })
}

/// The folder's name, with what a tag may not contain replaced.
fn tag_of(folder: &Path) -> String {
    let name = folder.file_name().map_or("root".into(), |name| name.to_string_lossy());
    name.chars()
        .take(31)
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect()
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path)
        .map_err(|error| Problem::usage(format!("{path:?} is not a path: {error}")))
}

fn optional(path: Option<&Path>) -> Result<Option<PathBuf>, Problem> {
    path.map(absolute).transpose()
}
