//! Folders of which single names are seen, and owners. What holds for every folder is tested where it has
//! a transport: in crate `virtio`, and on the real process in `host-agent/tests/share`.

use crate::client::{Client, ROOT, attributes, string, words};
use crate::message::kind;
use crate::{Guard, Names, Options, Owner};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

const GIVEN: &[&str] = &["letter", "folder", "link", "missing"];

struct Desk {
    base: tempfile::TempDir,
    names: Names,
}

impl Desk {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::create_dir_all(at("home/folder/deep")).unwrap();
        fs::create_dir(at("home/hidden")).unwrap();
        for (name, text) in [
            ("home/letter", "letter"),
            ("home/secret", "secret"),
            ("home/folder/deep/file", "deep"),
            ("home/hidden/file", "secret"),
            ("outside", "secret"),
        ] {
            fs::write(at(name), text).unwrap();
        }
        symlink("secret", at("home/link")).unwrap();
        let names = Names::new(GIVEN.iter().map(|name| name.as_bytes().to_vec()));
        Self { base, names }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.base.path().join("home").join(name)
    }

    fn client(&self) -> Client<Guard> {
        let root = fs::File::open(self.base.path().join("home")).unwrap();
        let only = Some(self.names.clone());
        let options = Options { max_handles: 100, only, ..Options::default() };
        Client::attach(Guard::new(root.into(), options).unwrap())
    }

    /// What was not given is as it was.
    fn check(&self) {
        assert_eq!(fs::read_to_string(self.at("secret")).unwrap(), "secret");
        assert_eq!(fs::read_to_string(self.at("hidden/file")).unwrap(), "secret");
        assert_eq!(fs::read_dir(self.at("hidden")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.base.path()).unwrap().count(), 2);
    }
}

#[test]
fn only_given_names_are_there() {
    let desk = Desk::new();
    let mut client = desk.client();
    assert_eq!(client.contents(&["letter"]).unwrap(), "letter");
    assert_eq!(client.contents(&["folder", "deep", "file"]).unwrap(), "deep");
    for names in [&["secret"][..], &["hidden"], &["hidden", "file"], &["nothing"]] {
        assert_eq!(client.walk(names), Err(Errno::NOENT), "{names:?}");
    }
    // A copy of the root's handle is the root as well.
    let copy = client.walk(&[]).unwrap();
    let walk = [words(&[copy, 900]), vec![1, 0], string("secret")].concat();
    assert_eq!(client.call(kind::WALK, &walk), Err(Errno::NOENT));
    // Also for a link to it, which is not followed.
    assert!(client.contents(&["link"]).is_err());
    desk.check();
}

#[test]
fn a_listing_has_the_given_names_and_no_other_however_it_is_cut() {
    let desk = Desk::new();
    let mut client = desk.client();
    for bytes in [4000, 60, 41] {
        let list = client.list(&[], bytes).unwrap();
        assert_eq!(list, [".", "..", "folder", "letter", "link"], "{bytes}");
    }
    assert_eq!(client.list(&["folder"], 4000).unwrap().len(), 3);
    let above = fs::metadata(desk.base.path()).unwrap().ino().to_le_bytes();
    let root = client.open(&[], 0).unwrap();
    let listing = client.call(kind::READDIR, &words(&[root, 0, 0, 4000])).unwrap();
    assert!(!listing.windows(8).any(|part| part == above), "the folder above");
}

#[test]
fn a_program_saves_by_rename() {
    let desk = Desk::new();
    let mut client = desk.client();
    client.create(&[], ".letter.new", "better").unwrap();
    assert_eq!(client.contents(&[".letter.new"]).unwrap(), "better");
    client.rename(ROOT, ".letter.new", ROOT, "letter").unwrap();
    assert_eq!(fs::read_to_string(desk.at("letter")).unwrap(), "better");
    // And with a copy of the old one kept.
    client.rename(ROOT, "letter", ROOT, "letter~").unwrap();
    client.create(&[], "letter", "best").unwrap();
    assert_eq!(fs::read_to_string(desk.at("letter")).unwrap(), "best");
    client.unlink(ROOT, "letter~", 0).unwrap();
    assert!(!desk.at("letter~").exists());
    // What the host makes under a name that the guest had and left is the host's.
    fs::write(desk.at("letter~"), "the host's").unwrap();
    assert_eq!(client.contents(&["letter~"]), Err(Errno::NOENT));
    desk.check();
}

#[test]
fn nothing_takes_the_place_of_a_file_that_was_not_given() {
    let desk = Desk::new();
    let mut client = desk.client();
    let folder = client.walk(&["folder"]).unwrap();
    let letter = client.walk(&["letter"]).unwrap();
    assert_eq!(client.create(&[], "secret", "x"), Err(Errno::EXIST));
    assert_eq!(client.rename(ROOT, "letter", ROOT, "secret"), Err(Errno::EXIST));
    assert_eq!(client.rename(ROOT, "secret", ROOT, "letter"), Err(Errno::NOENT));
    assert_eq!(client.rename(ROOT, "secret", folder, "x"), Err(Errno::NOENT));
    assert_eq!(client.rename(folder, "deep", ROOT, "hidden"), Err(Errno::XDEV));
    assert_eq!(client.unlink(ROOT, "secret", 0), Err(Errno::NOENT));
    assert_eq!(client.unlink(ROOT, "hidden", 0x200), Err(Errno::NOENT));
    let link = [words(&[ROOT, letter]), string("secret")].concat();
    assert_eq!(client.call(kind::LINK, &link), Err(Errno::EXIST));
    let mkdir = [words(&[ROOT]), string("hidden"), words(&[0o755, 0])].concat();
    assert_eq!(client.call(kind::MKDIR, &mkdir), Err(Errno::EXIST));
    assert_eq!(fs::read_to_string(desk.at("letter")).unwrap(), "letter");
    // Into a given folder and out of it to a given name, all is free.
    client.rename(ROOT, "letter", folder, "letter").unwrap();
    client.rename(folder, "letter", ROOT, "missing").unwrap();
    assert_eq!(client.contents(&["missing"]).unwrap(), "letter");
    desk.check();
}

#[test]
fn the_folder_itself_is_not_changed() {
    let desk = Desk::new();
    let mut client = desk.client();
    let before = fs::metadata(desk.at("")).unwrap();
    for valid in 0..9 {
        let set = attributes(ROOT, 1 << valid, 0o777, (0, 0), 0);
        assert!(client.call(kind::SETATTR, &set).is_err());
    }
    let after = fs::metadata(desk.at("")).unwrap();
    assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()));
}

#[test]
fn a_name_given_later_is_there_for_every_connection() {
    let desk = Desk::new();
    let (mut one, mut other) = (desk.client(), desk.client());
    assert!(one.contents(&["secret"]).is_err());
    assert!(desk.names.give(b"secret"));
    assert_eq!(one.contents(&["secret"]).unwrap(), "secret");
    one.create(&[], "made", "by one").unwrap();
    assert_eq!(other.contents(&["made"]).unwrap(), "by one");
}

#[test]
fn there_is_an_end_to_the_names_a_guest_makes() {
    let desk = Desk::new();
    let mut client = desk.client();
    for number in 0..crate::MOST_NAMES {
        assert!(desk.names.give(number.to_string().as_bytes()) || number > 4000);
    }
    assert_eq!(client.create(&[], "one more", ""), Err(Errno::NOSPC));
    client.write(&["letter"], "still").unwrap();
}

#[test]
fn files_show_the_guest_users_numbers_and_are_given_to_nobody_else() {
    let desk = Desk::new();
    let root = fs::File::open(desk.at("")).unwrap();
    let owner = Some(Owner::new(1000, 100));
    let options = Options { max_handles: 100, owner, ..Options::default() };
    let mut client = Client::attach(Guard::new(root.into(), options).unwrap());
    assert_eq!(client.owner(&["letter"]).unwrap(), (1000, 100));
    let handle = client.walk(&["letter"]).unwrap();
    let mut set = |owner| client.call(kind::SETATTR, &attributes(handle, 6, 0, owner, 0));
    assert!(set((1000, 100)).is_ok());
    assert_eq!(set((0, 0)), Err(Errno::PERM));
    let facts = fs::metadata(desk.at("letter")).unwrap();
    assert_eq!(facts.uid(), rustix::process::geteuid().as_raw());
    if rustix::process::geteuid().is_root() {
        let other = Some(rustix::fs::Uid::from_raw(4711));
        rustix::fs::chown(desk.at("secret"), other, None).unwrap();
        assert_eq!(client.owner(&["secret"]).unwrap().0, 65534);
    } else {
        eprintln!("SKIPPED: another user's file, which only root can make");
    }
}

/// Requests that are whole and mean anything.
fn plausible(random: &mut impl FnMut(u64) -> u64) -> (u8, Vec<u8>) {
    const KINDS: &[u8] =
        &[12, 14, 20, 22, 24, 26, 40, 70, 72, 74, 76, 110, 110, 110, 116, 120, 122];
    const NAMES: &[&str] =
        &["letter", "secret", "hidden", "folder", "deep", "file", "new", "..", "link"];
    let kind = KINDS[random(KINDS.len() as u64) as usize];
    let mut body = Vec::new();
    for _ in 0..1 + random(6) {
        match random(4) {
            0 => body.extend(string(NAMES[random(NAMES.len() as u64) as usize])),
            1 => body.extend((random(3) as u16).to_le_bytes()),
            _ => body.extend(words(&[random(5) as u32])),
        }
    }
    (kind, body)
}

#[test]
fn random_requests_reach_nothing_that_was_not_given() {
    for seed in 1..=8_u64 {
        let desk = Desk::new();
        let mut client = desk.client();
        let mut state = seed;
        let mut random = |bound: u64| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % bound
        };
        for _ in 0..4000 {
            let (asked, body) = plausible(&mut random);
            if let Ok(answer) = client.call(asked, &body) {
                // A link that names it may be read.
                let named = asked == kind::READLINK;
                assert!(named || !answer.windows(6).any(|part| part == b"secret"));
            }
        }
        desk.check();
    }
}
