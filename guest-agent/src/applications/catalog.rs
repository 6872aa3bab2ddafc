//! One look at all of a session's applications.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use prost::Message;
use proto::v1::Application;
use sha2::{Digest, Sha256};

use super::application::{LeftOut, View, read};
use super::file;
use super::folders::Files;
use super::image;
use super::session::Session;
use super::theme::{Candidate, Icons};
use super::watch::Watch;

/// Applications in a list, as the protocol says.
const MOST: usize = 2048;
/// Bytes of a list: a message's, less what is around the applications.
const MOST_BYTES: usize = agent_link::MAX_MESSAGE - (64 << 10);
/// What stands before each application in the message (tag and length).
const BEFORE_EACH: usize = 6;
/// Bytes of a desktop file.
pub(super) const LONGEST_FILE: usize = 256 << 10;

/// Files that the agent does not tell of, by the reason.
pub(super) type Omissions = BTreeMap<LeftOut, usize>;

/// What is known of an application beyond what the host is told.
#[derive(Debug)]
pub(super) struct Known {
    /// Its desktop file.
    pub(super) path: PathBuf,
    /// The Icon key.
    pub(super) icon: String,
    /// The icon's files.
    pub(super) icon_files: Vec<Candidate>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Catalog {
    /// For the host, sorted by id.
    pub(super) applications: Vec<Application>,
    /// SHA-256 over their encodings, one after the other.
    pub(super) digest: Vec<u8>,
    known: BTreeMap<String, Known>,
    /// What was left out, but for what says so itself.
    pub(super) omissions: Omissions,
    /// Parts of listed applications that were left out.
    pub(super) parts_left_out: usize,
}

impl Catalog {
    /// Looks; where something may change, `watch` is told before that place is read.
    pub(super) fn look(session: &Session, languages: &[String], watch: &mut Watch) -> Self {
        let files = Files::find(&session.data(), watch);
        let desktops = session.desktops();
        let installed = |program: &str| session.program(program.as_ref()).is_some();
        let view = View { languages, desktops: &desktops, installed: &installed };
        let mut omissions = Omissions::new();
        let mut omit = |why, count| *omissions.entry(why).or_default() += count;
        let mut listed = Vec::new();
        for (id, path) in files.paths {
            let bytes = file::read(&path, LONGEST_FILE).map_err(|_| LeftOut::Unreadable);
            match bytes.and_then(|bytes| read(&id, &bytes, &view)) {
                Ok(application) => listed.push((application, path)),
                Err(why) => omit(why, 1),
            }
        }
        // Those for menus have the first claim to a place; the order by id stays.
        listed.sort_by_key(|(listed, _)| listed.application.hidden);
        let mut bytes = 0;
        let found = listed.len();
        let mut number = 0;
        listed.retain(|(listed, _)| {
            let size = listed.application.encoded_len() + BEFORE_EACH;
            let fits = number < MOST && bytes + size <= MOST_BYTES;
            if fits {
                number += 1;
                bytes += size;
            }
            fits
        });
        omit(LeftOut::Many, found - listed.len() + files.left_out);
        listed.sort_by(|(one, _), (other, _)| one.application.id.cmp(&other.application.id));

        let names: BTreeSet<String> =
            listed.iter().map(|(listed, _)| listed.icon.clone()).collect();
        let icons = Icons::find(&names, session, watch);
        let mut digest = Sha256::new();
        let (mut applications, mut known) = (Vec::new(), BTreeMap::new());
        let mut parts_left_out = 0;
        for (listed, path) in listed {
            let icon_files = icons.of(&listed.icon).to_vec();
            let mut application = listed.application;
            application.icon = image::number(&icon_files);
            digest.update(application.encode_to_vec());
            known.insert(application.id.clone(), Known { path, icon: listed.icon, icon_files });
            applications.push(application);
            parts_left_out += listed.parts_left_out;
        }
        omissions.retain(|why, count| *why != LeftOut::Meant && *count > 0);
        let digest = digest.finalize().to_vec();
        Self { applications, digest, known, omissions, parts_left_out }
    }

    /// What is known of an application that is listed.
    pub(super) fn known(&self, id: &str) -> Option<&Known> {
        self.known.get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn look(home: &Path) -> Catalog {
        let session =
            Session::of(&[("HOME", home.to_str().unwrap()), ("XDG_DATA_DIRS", "/nowhere")]);
        Catalog::look(&session, &[], &mut Watch::new())
    }

    fn applications(home: &Path) -> PathBuf {
        let folder = home.join(".local/share/applications");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_list_larger_than_a_message_loses_those_that_are_hidden_first() {
        let home = tempfile::tempdir().unwrap();
        let folder = applications(home.path());
        let mime: String = (0..250).map(|n| format!("application/x-{n:0100};")).collect();
        let start = "[Desktop Entry]\nType=Application\nName=x\nExec=x %f\n";
        for n in 0..150 {
            let hidden = if n < 75 { "NoDisplay=true\n" } else { "" };
            let text = format!("{start}{hidden}MimeType={mime}\n");
            std::fs::write(folder.join(format!("a{n:03}.desktop")), text).unwrap();
        }
        let catalog = look(home.path());
        let size: usize =
            catalog.applications.iter().map(|one| one.encoded_len() + BEFORE_EACH).sum();
        assert!(size <= MOST_BYTES);
        let (hidden, shown): (Vec<_>, Vec<_>) =
            catalog.applications.iter().partition(|one| one.hidden);
        assert_eq!(shown.len(), 75);
        assert!(hidden.len() < 75);
        assert_eq!(catalog.omissions, Omissions::from([(LeftOut::Many, 75 - hidden.len())]));
        assert!(catalog.applications.is_sorted_by(|one, other| one.id < other.id));
    }

    #[test]
    fn files_that_are_broken_stop_no_others_and_are_counted() {
        let home = tempfile::tempdir().unwrap();
        let folder = applications(home.path());
        let good = "[Desktop Entry]\nType=Application\nName=Good\nExec=x\n";
        let write = |name: &str, text: &[u8]| std::fs::write(folder.join(name), text).unwrap();
        write("good.desktop", good.as_bytes());
        write("empty.desktop", b"");
        write("large.desktop", &vec![b'#'; LONGEST_FILE + 1]);
        write("binary.desktop", &[0xff; 100]);
        write("bad name.desktop", good.as_bytes());
        write("quote.desktop", good.replace("Exec=x", "Exec=x \"").as_bytes());
        write("hidden.desktop", format!("{good}Hidden=true\n").as_bytes());
        std::os::unix::fs::symlink("nowhere", folder.join("dangling.desktop")).unwrap();
        let pipe = folder.join("pipe.desktop");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        let catalog = look(home.path());
        let ids: Vec<&str> = catalog.applications.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["good"]);
        assert_eq!(catalog.omissions[&LeftOut::Unreadable], 5);
        assert_eq!(catalog.omissions[&LeftOut::Id], 1);
        assert_eq!(catalog.omissions.values().sum::<usize>(), 7);
        assert_eq!(look(home.path()).digest, catalog.digest);
        write("good.desktop", good.replace("Good", "Better").as_bytes());
        assert_ne!(look(home.path()).digest, catalog.digest);
    }
}
