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
fn what_the_host_puts_where_the_guest_made_a_file_is_the_hosts() {
    let desk = Desk::new();
    let mut client = desk.client();
    client.create(&[], "draft", "the guest's").unwrap();
    let held = client.open(&["draft"], 0).unwrap();
    // As an editor of the host saves: the name is never free.
    fs::write(desk.at("other"), "the host's secret").unwrap();
    fs::rename(desk.at("other"), desk.at("draft")).unwrap();
    let text = |read: crate::client::Answer| String::from_utf8(read.unwrap()[4..].to_vec());
    // What it has open is the file it made.
    assert_eq!(text(client.call(kind::READ, &words(&[held, 0, 0, 100]))).unwrap(), "the guest's");
    assert_eq!(client.contents(&["draft"]), Err(Errno::NOENT));
    assert!(!client.list(&[], 4000).unwrap().contains(&"draft".to_owned()));
    assert_eq!(client.unlink(ROOT, "draft", 0), Err(Errno::NOENT));
    assert_eq!(client.rename(ROOT, "draft", ROOT, "mine"), Err(Errno::NOENT));
    assert_eq!(client.rename(ROOT, "letter", ROOT, "draft"), Err(Errno::EXIST));
    assert_eq!(client.create(&[], "draft", "x"), Err(Errno::EXIST));
    assert_eq!(fs::read_to_string(desk.at("draft")).unwrap(), "the host's secret");
    // Removed and made anew, perhaps with the same number, and not looked at in between.
    client.create(&[], "notes", "the guest's").unwrap();
    fs::remove_file(desk.at("notes")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(desk.at("notes"), "the host's secret").unwrap();
    assert!(!client.list(&[], 4000).unwrap().contains(&"notes".to_owned()));
    assert_eq!(client.contents(&["notes"]), Err(Errno::NOENT));
    // Where nothing is, the guest may make it again.
    fs::remove_file(desk.at("notes")).unwrap();
    client.create(&[], "notes", "again").unwrap();
    assert_eq!(client.contents(&["notes"]).unwrap(), "again");
    desk.check();
}

#[test]
fn a_name_swapped_at_any_moment_shows_a_guest_what_it_made_and_nothing_else() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let desk = Desk::new();
    let mut client = desk.client();
    client.create(&[], "mine", "the guest's").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let (mine, secret) = (desk.at("mine"), desk.at("secret"));
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &mine, CWD, &secret, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..2000 {
            if let Ok(contents) = client.contents(&["mine"]) {
                assert_eq!(contents, "the guest's");
            } else {
                // It was the host's for a moment: given anew, for the next round.
                let stat = fs::metadata(desk.at("mine")).map(|facts| facts.len());
                if stat.is_ok_and(|length| length == 11) {
                    let root = fs::File::open(desk.at("")).unwrap();
                    let facts = crate::identity::facts(&root, b"mine").unwrap();
                    if facts.stx_size == 11 {
                        desk.names.hold().made(b"mine", (&facts).into());
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn whole_folder(desk: &Desk) -> Client<Guard> {
    let root = fs::File::open(desk.at("")).unwrap();
    let options = Options { max_handles: 100, ..Options::default() };
    Client::attach(Guard::new(root.into(), options).unwrap())
}

#[test]
fn names_are_bytes_and_a_listing_is_whole_however_it_is_cut() {
    use std::os::unix::ffi::OsStringExt;
    let desk = Desk::new();
    let odd = b"not utf-8: \xff\xfe\x80".to_vec();
    let long = vec![b'n'; 255];
    for name in [&odd, &long] {
        let name = std::ffi::OsString::from_vec(name.clone());
        fs::write(desk.base.path().join("home/folder").join(name), "odd").unwrap();
    }
    for number in 0..700 {
        fs::write(desk.at("folder").join(number.to_string()), "").unwrap();
    }
    let mut client = whole_folder(&desk);
    for bytes in [40_000, 5000, 279] {
        let list = client.list_bytes(&["folder"], bytes).unwrap();
        let different: std::collections::BTreeSet<_> = list.iter().collect();
        assert_eq!((list.len(), different.len()), (705, 705), "{bytes}");
        assert!(list.contains(&odd) && list.contains(&long));
    }
    // One that fits in no message of this size is left out and counted; the others are there.
    let list = client.list_bytes(&["folder"], 278).unwrap();
    assert_eq!(list.len(), 704);
    assert!(client.transport.take_left_out() > 0);
    assert_eq!(client.transport.take_left_out(), 0);
    // The name leads to the file.
    let mut walk = words(&[ROOT, 900]);
    walk.extend([2, 0]);
    walk.extend(string("folder"));
    walk.extend((odd.len() as u16).to_le_bytes());
    walk.extend(&odd);
    assert!(client.call(kind::WALK, &walk).is_ok());
    client.call(kind::LOPEN, &words(&[900, 0])).unwrap();
    let read = client.call(kind::READ, &words(&[900, 0, 0, 100])).unwrap();
    assert_eq!(&read[4..], b"odd");
}

#[test]
fn nothing_is_learned_of_the_folder_above() {
    let desk = Desk::new();
    let above = fs::metadata(desk.base.path()).unwrap().ino().to_le_bytes();
    let mut client = whole_folder(&desk);
    let root = client.open(&[], 0).unwrap();
    let listing = client.call(kind::READDIR, &words(&[root, 0, 0, 4000])).unwrap();
    assert!(!listing.windows(8).any(|part| part == above));
}

#[test]
fn attributes_of_users_are_set_read_listed_and_removed_and_no_others() {
    let desk = Desk::new();
    let mut client = whole_folder(&desk);
    let file = &["letter"][..];
    if let Err(errno) = client.set_attribute(file, "user.first", b"one", 0) {
        assert_eq!(errno, Errno::OPNOTSUPP);
        return eprintln!("SKIPPED: extended attributes, which this file system lacks");
    }
    client.set_attribute(file, "user.second", &[7; 1000], 0).unwrap();
    assert_eq!(client.attribute(file, "user.first").unwrap(), b"one");
    assert_eq!(client.attribute(file, "user.second").unwrap(), [7; 1000]);
    let mut list = client.attribute(file, "").unwrap();
    list.sort_unstable();
    let mut expected = b"user.first\0user.second\0".to_vec();
    expected.sort_unstable();
    assert_eq!(list, expected);
    let handle = fs::File::open(desk.at("letter")).unwrap();
    let mut value = [0; 10];
    assert_eq!(rustix::fs::fgetxattr(&handle, "user.first", &mut value[..]), Ok(3));
    // XATTR_CREATE and XATTR_REPLACE (setxattr(2)).
    assert_eq!(client.set_attribute(file, "user.first", b"x", 1), Err(Errno::EXIST));
    assert_eq!(client.set_attribute(file, "user.none", b"x", 2), Err(Errno::NODATA));
    client.set_attribute(file, "user.first", b"", 0).unwrap();
    assert_eq!(client.attribute(file, "user.first"), Err(Errno::NODATA));
    for name in ["security.selinux", "trusted.x", "system.posix_acl_access", "other"] {
        assert_eq!(client.set_attribute(file, name, b"x", 0), Err(Errno::OPNOTSUPP), "{name}");
        assert_eq!(client.attribute(file, name), Err(Errno::OPNOTSUPP), "{name}");
    }
    let large = vec![0; (64 << 10) + 1];
    let begin = [words(&[900]), string("user.x"), words(&[large.len() as u32, 0, 0])].concat();
    client.call(kind::WALK, &[words(&[ROOT, 900]), vec![1, 0], string("letter")].concat()).unwrap();
    assert_eq!(client.call(kind::XATTRCREATE, &begin), Err(Errno::TOOBIG));
    // Half a value is none, and one cannot be written out of order or beyond its size.
    let begin = [words(&[900]), string("user.x"), words(&[8, 0, 0])].concat();
    client.call(kind::XATTRCREATE, &begin).unwrap();
    let write = |offset: u32, text: &str| {
        [words(&[900, offset, 0, text.len() as u32]), text.as_bytes().to_vec()].concat()
    };
    assert_eq!(client.call(kind::WRITE, &write(4, "late")), Err(Errno::INVAL));
    assert_eq!(client.call(kind::WRITE, &write(0, "far too much")), Err(Errno::NOSPC));
    client.call(kind::WRITE, &write(0, "half")).unwrap();
    assert_eq!(client.call(kind::CLUNK, &words(&[900])), Err(Errno::INVAL));
    assert_eq!(client.call(kind::CLUNK, &words(&[900])), Err(Errno::BADF), "it is gone");
    assert_eq!(client.attribute(file, "user.x"), Err(Errno::NODATA));
    // That took no handle away for good.
    for _ in 0..200 {
        client
            .call(kind::WALK, &[words(&[ROOT, 900]), vec![1, 0], string("letter")].concat())
            .unwrap();
        client.call(kind::XATTRCREATE, &begin).unwrap();
        assert!(client.call(kind::CLUNK, &words(&[900])).is_err());
    }
    // A link has none, and what it leads to is not reached.
    assert_eq!(client.attribute(&["link"], "").unwrap(), b"");
    assert_eq!(client.set_attribute(&["link"], "user.x", b"x", 0), Err(Errno::OPNOTSUPP));
    // There is an end to what handles hold.
    let held = (0..200).map(|number| {
        let walk = [words(&[ROOT, 1000 + number]), string("")].concat();
        client.call(kind::XATTRWALK, &walk)
    });
    assert!(held.last().unwrap().is_err());
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
        &[12, 14, 20, 22, 24, 26, 30, 32, 40, 70, 72, 74, 76, 110, 110, 110, 116, 118, 120, 122];
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
