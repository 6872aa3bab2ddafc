//! Single files for the guest: where it finds a file of the host, and what is made so that it does.

use super::record::{Files, Wanted};
use super::{Inner, Rights, State};
use crate::problem::{Kind, Problem};
use definition::limits;
use proto::v1::SharedPath;
use rustix::fs::{Access, access};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Portals of one run: so many folders files were opened from.
const MOST_PORTALS: usize = 16;
/// Files of one portal that the host gives, and bytes of their names as its process is told; then there is
/// another for the folder.
const MOST_FILES: usize = 128;
const MOST_NAME_BYTES: usize = share::MOST_BYTES * 3 / 4;

/// A file as the host has it.
#[derive(Debug)]
pub(super) struct Found {
    /// Resolved: no component is a symbolic link.
    path: PathBuf,
    writable: bool,
}

/// Looks at a file that is to be reached. Blocks.
pub(super) fn find(inner: &Inner, file: &Path, rights: Rights) -> Result<Found, Problem> {
    let shown = file.display();
    if !file.is_absolute() {
        return Err(Problem::usage(format!("the path is {file:?}; allowed: an absolute path")));
    }
    let path = file
        .canonicalize()
        .map_err(|error| Problem::failed(format!("{shown} cannot be opened: {error}")))?;
    refuse_own(inner, &path)?;
    let facts = path
        .metadata()
        .map_err(|error| Problem::failed(format!("{shown} cannot be looked at: {error}")))?;
    if !facts.is_file() && !facts.is_dir() {
        let message = format!("{shown} is neither a file nor a folder");
        return Err(Problem::new(Kind::Refused, message));
    }
    access(&path, Access::READ_OK)
        .map_err(|error| Problem::failed(format!("{shown} cannot be read: {error}")))?;
    let writable = rights == Rights::AsTheHost && access(&path, Access::WRITE_OK).is_ok();
    Ok(Found { path, writable })
}

/// What the product keeps for itself is no guest's business.
pub(super) fn refuse_own(inner: &Inner, path: &Path) -> Result<(), Problem> {
    if inner.about.places.has(path) || inner.about.places.lie_in(path) {
        let message = format!("{} is or has files of macrohard-hypervisor itself", path.display());
        return Err(Problem::new(Kind::Refused, message).advise("copy it to another folder first"));
    }
    Ok(())
}

fn shared(tag: &str, below: &Path) -> SharedPath {
    SharedPath { tag: tag.to_owned(), path: below.as_os_str().as_bytes().to_vec() }
}

/// A whole folder that the guest has: its tag, and whether it is read-only.
pub(super) type Open = (String, PathBuf, bool);

/// Those of a run.
pub(super) fn open_folders(state: &State) -> Vec<Open> {
    let live = state.served.values().map(|served| &served.record.wanted);
    let live = live
        .filter(|wanted| wanted.only.is_none())
        .map(|wanted| (wanted.tag.clone(), wanted.folder.clone(), wanted.read_only));
    let devices = state.devices.iter();
    let devices = devices.map(|share| (share.tag.clone(), share.path.clone(), share.read_only));
    live.chain(devices).collect()
}

/// Where the guest has the file already: in one where it is writable, if it is. Blocks.
pub(super) fn under_share(open: Vec<Open>, found: &Found) -> Option<SharedPath> {
    let under = open.into_iter().filter_map(|(tag, folder, read_only)| {
        let below = found.path.strip_prefix(folder.canonicalize().ok()?).ok()?.to_owned();
        Some((read_only, tag, below))
    });
    let best = under.min_by_key(|(read_only, _, below)| (*read_only, below.as_os_str().len()));
    best.filter(|(read_only, ..)| !(*read_only && found.writable))
        .map(|(_, tag, below)| shared(&tag, &below))
}

/// A portal that shows the file: one that is there, or a new one, for the keeper to serve.
pub(super) async fn open(inner: &Arc<Inner>, found: &Found) -> Result<SharedPath, Problem> {
    let (Some(folder), Some(name)) = (found.path.parent(), found.path.file_name()) else {
        return Err(Problem::new(Kind::Refused, "the whole file system is not opened in a guest"));
    };
    let bytes = name.as_bytes();
    let read_only = !found.writable;
    let (tag, known) = {
        let mut state = inner.state();
        let of_folder = state.portals.iter().filter_map(|portal| {
            let fits = portal.folder == folder && portal.read_only == read_only;
            Some((&portal.tag, portal.only.as_ref().filter(|_| fits)?))
        });
        let (mut with_room, mut with_name) = (None, None);
        for (tag, names) in of_folder {
            if names.iter().any(|given| given == bytes) {
                with_name = Some(tag.clone());
            } else if has_room(names, bytes) {
                with_room = Some(tag.clone());
            }
        }
        match (with_name, with_room) {
            (Some(tag), _) => (tag, true),
            (None, Some(tag)) => (tag, false),
            (None, None) => (new_portal(&mut state, folder, bytes, read_only)?, true),
        }
    };
    if !known {
        give(inner, &tag, bytes).await?;
    }
    Ok(shared(&tag, Path::new(name)))
}

/// Whether one portal can show one more name.
fn has_room(names: &[Vec<u8>], name: &[u8]) -> bool {
    let bytes = share::name_list::encode(names).len();
    let more = share::name_list::encode(&[name.to_vec()]).len() + 1;
    names.len() < MOST_FILES && bytes + more <= MOST_NAME_BYTES
}

/// Adds one, for the keeper to serve; its tag.
fn new_portal(
    state: &mut State,
    folder: &Path,
    name: &[u8],
    read_only: bool,
) -> Result<String, Problem> {
    if state.portals.len() >= MOST_PORTALS {
        let message = format!("files of {MOST_PORTALS} folders are open in the guest already");
        return Err(Problem::new(Kind::Refused, message).advise("share a folder with `share add`"));
    }
    let tag = free_tag(state);
    let (folder, only) = (folder.to_owned(), Some(vec![name.to_vec()]));
    state.portals.push(Wanted { tag: tag.clone(), folder, read_only, only });
    Ok(tag)
}

/// Lets a portal show one more name.
async fn give(inner: &Arc<Inner>, tag: &str, name: &[u8]) -> Result<(), Problem> {
    let record = {
        let mut state = inner.state();
        if let Some(portal) = state.portals.iter_mut().find(|portal| portal.tag == tag)
            && let Some(only) = &mut portal.only
        {
            only.push(name.to_vec());
        }
        let portal = state.portals.iter().find(|portal| portal.tag == tag).cloned();
        match (state.served.get_mut(tag), portal) {
            (Some(served), Some(portal)) => {
                served.record.wanted = portal;
                Some(served.record.clone())
            }
            _ => None,
        }
    };
    let Some(record) = record else {
        // It is started with the name.
        return Ok(());
    };
    let files = Files::new(&inner.about);
    let request = share::Request::Give { name: name.to_vec() };
    let given = tokio::task::spawn_blocking(move || {
        files.write(&record)?;
        share::ask(&files.control(record.port), &request)
    });
    match given.await.map_err(Problem::failed)? {
        Ok(share::Reply::Done) => Ok(()),
        Ok(share::Reply::Refused { message }) => Err(Problem::new(Kind::Refused, message)),
        Ok(reply) => Err(Problem::failed(format!("the share process answers {reply:?}"))),
        Err(error) => Err(Problem::failed(format!("the share process does not answer: {error}"))),
    }
}

/// `opened-1` and so on, none that a share has.
fn free_tag(state: &State) -> String {
    let taken = |tag: &String| {
        state.portals.iter().any(|portal| portal.tag == *tag) || state.defined.contains(tag)
    };
    let most = MOST_PORTALS + limits::SHARES + limits::LIVE_SHARES + 1;
    (1..=most).map(|number| format!("opened-{number}")).find(|tag| !taken(tag)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_has_as_many_names_as_its_process_can_be_told() {
        let names = |length, byte, count| vec![vec![byte; length]; count];
        assert!(has_room(&names(255, b'a', 127), &[b'a'; 255]));
        assert!(!has_room(&names(1, b'a', 128), b"b"));
        // Names that are no text take three times their bytes.
        assert!(has_room(&names(255, 0xff, 60), &[0xff; 255]));
        assert!(!has_room(&names(255, 0xff, 64), &[0xff; 255]));
        let spec = share::Spec {
            vm: "x".repeat(64),
            tag: "x".repeat(31),
            token: "x".repeat(64),
            read_only: false,
            only: Some(names(255, 0xff, 64)),
        };
        assert!(serde_json::to_vec(&spec).unwrap().len() < share::MOST_BYTES);
    }
}
