//! A 9P client, well-behaved and otherwise, on real folders.

use super::{Plan9, ShareError};
use crate::test_support::{Buffer, Random, TestDriver, attack, skipped};
use plan9::message::{HEADER_BYTES, kind, message};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const ROOT: u32 = 0;
const RDWR: u32 = 2;
const TRUNCATE: u32 = 0o1000;

struct Client {
    driver: TestDriver,
    folder: tempfile::TempDir,
    next: u32,
}

/// Folder `share` beside a file and a folder nobody shared.
fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("share/sub")).unwrap();
    fs::create_dir(at("outside")).unwrap();
    fs::write(at("secret"), "secret").unwrap();
    fs::write(at("outside/file"), "secret").unwrap();
    fs::write(at("share/file"), "shared").unwrap();
    fs::write(at("share/sub/file"), "deeper").unwrap();
    folder
}

type Answer = Result<Vec<u8>, Errno>;

impl Client {
    fn new(read_only: bool) -> Self {
        let folder = tree();
        let share = Plan9::new("9p0", "home", &folder.path().join("share"), read_only).unwrap();
        let mut client = Self { driver: TestDriver::start(Box::new(share)), folder, next: 1 };
        client.attach();
        client
    }

    fn attach(&mut self) {
        let version = [&8192u32.to_le_bytes()[..], &string("9P2000.L")].concat();
        let answer = self.call(kind::VERSION, &version).unwrap();
        assert_eq!(answer, version);
        let names = [string("root"), string("")].concat();
        let body = [&words(&[ROOT, u32::MAX])[..], &names, &words(&[0])].concat();
        self.call(kind::ATTACH, &body).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Sends `request` as it is; the answer's bytes.
    fn raw(&mut self, request: &[u8], space: usize) -> Vec<u8> {
        let used = self.driver.request(0, &[Buffer::Out(request), Buffer::In(space)]);
        used.data[..used.length as usize].to_vec()
    }

    fn call(&mut self, kind: u8, body: &[u8]) -> Answer {
        let bytes = self.raw(&message(kind, 77, body), 8192);
        let size = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert_eq!((size as usize, &bytes[5..7]), (bytes.len(), &[77, 0][..]));
        result(kind, &bytes)
    }

    /// A handle for `names` below the root.
    fn walk(&mut self, names: &[&str]) -> Result<u32, Errno> {
        let handle = self.next;
        self.next += 1;
        let mut body = words(&[ROOT, handle]);
        body.extend((names.len() as u16).to_le_bytes());
        for name in names {
            body.extend(string(name));
        }
        let answer = self.call(kind::WALK, &body)?;
        let walked = u16::from_le_bytes([answer[0], answer[1]]);
        if usize::from(walked) < names.len() {
            return Err(Errno::NOENT);
        }
        Ok(handle)
    }

    fn open(&mut self, names: &[&str], flags: u32) -> Result<u32, Errno> {
        let handle = self.walk(names)?;
        self.call(kind::LOPEN, &words(&[handle, flags]))?;
        Ok(handle)
    }

    fn read(&mut self, handle: u32, count: u32) -> Answer {
        let answer = self.call(kind::READ, &words(&[handle, 0, 0, count]))?;
        Ok(answer[4..].to_vec())
    }

    fn write(&mut self, handle: u32, bytes: &[u8]) -> Answer {
        let fixed = words(&[handle, 0, 0, bytes.len() as u32]);
        self.call(kind::WRITE, &[&fixed[..], bytes].concat())
    }

    fn contents(&mut self, names: &[&str]) -> Result<String, Errno> {
        let handle = self.open(names, 0)?;
        let bytes = self.read(handle, 1000)?;
        self.call(kind::CLUNK, &words(&[handle]))?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn create(&mut self, name: &str, mode: u32) -> Answer {
        let handle = self.walk(&[])?;
        let fixed = words(&[RDWR, mode, 0]);
        self.call(kind::LCREATE, &[&words(&[handle])[..], &string(name), &fixed].concat())
    }
}

fn result(kind: u8, bytes: &[u8]) -> Answer {
    let body = bytes[HEADER_BYTES..].to_vec();
    if bytes[4] == kind::RLERROR {
        let errno = i32::from_le_bytes(body.try_into().unwrap());
        return Err(Errno::from_raw_os_error(errno));
    }
    assert_eq!(bytes[4], kind + 1);
    Ok(body)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The body of Tsetattr: what is `valid`, a mode and a size.
fn attributes(handle: u32, valid: u32, mode: u32, size: u32) -> Vec<u8> {
    let mut body = words(&[handle, valid, mode, 0, 0, size, 0]);
    body.extend([0; 32]);
    body
}

#[test]
fn files_are_read_written_made_and_listed() {
    let mut client = Client::new(false);
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
    assert_eq!(client.contents(&["sub", "file"]).unwrap(), "deeper");
    let handle = client.open(&["file"], RDWR | TRUNCATE).unwrap();
    assert_eq!(client.write(handle, b"changed").unwrap(), words(&[7]));
    assert_eq!(fs::read_to_string(client.path("share/file")).unwrap(), "changed");
    client.create("new", 0o644).unwrap();
    let folder = client.open(&[], 0).unwrap();
    let listing = client.call(kind::READDIR, &words(&[folder, 0, 0, 4000])).unwrap();
    for name in ["file", "sub", "new"] {
        let entry = string(name);
        assert!(listing.windows(entry.len()).any(|part| part == entry), "{name}");
    }
    let size = attributes(handle, 8, 0, 3);
    client.call(kind::SETATTR, &size).unwrap();
    assert_eq!(fs::read_to_string(client.path("share/file")).unwrap(), "cha");
    let rename = [words(&[ROOT]), string("new"), words(&[ROOT]), string("newer")].concat();
    client.call(kind::RENAMEAT, &rename).unwrap();
    let unlink = [words(&[ROOT]), string("newer"), words(&[0])].concat();
    client.call(kind::UNLINKAT, &unlink).unwrap();
    assert!(!client.path("share/newer").exists());
}

#[test]
fn the_tag_is_in_the_configuration_and_has_a_length() {
    let mut client = Client::new(false);
    let mut config = [0; 8];
    client.driver.device().read_config(0, &mut config);
    assert_eq!(&config, b"\x04\0home\0\0");
    let folder = tempfile::tempdir().unwrap();
    for tag in ["", "a-tag-that-is-longer-than-31-bytes"] {
        assert!(matches!(Plan9::new("9p0", tag, folder.path(), true), Err(ShareError::Tag { .. })));
    }
    let missing = Plan9::new("9p0", "x", &folder.path().join("none"), true);
    assert!(matches!(missing, Err(ShareError::Folder { .. })));
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let mut client = Client::new(false);
    let absolute = client.path("secret");
    for names in [
        &[".."][..],
        &["..", "secret"],
        &["sub", "..", "..", "secret"],
        &["../secret"],
        &["sub/../../secret"],
        &[absolute.to_str().unwrap()],
        &["/"],
        &["."],
        &[""],
        &["file\0"],
    ] {
        assert_eq!(client.walk(names), Err(Errno::INVAL), "{names:?}");
    }
    for name in ["../made", "/tmp/made", "..", ""] {
        let name = string(name);
        let handle = client.walk(&[]).unwrap();
        let create = [&words(&[handle])[..], &name, &words(&[RDWR, 0o644, 0])].concat();
        let mkdir = [&words(&[ROOT])[..], &name, &words(&[0o755, 0])].concat();
        let link = [&words(&[ROOT, ROOT])[..], &name].concat();
        let unlink = [&words(&[ROOT])[..], &name, &words(&[0])].concat();
        let away = [words(&[ROOT]), string("file"), words(&[ROOT]), name.clone()].concat();
        let here = [words(&[ROOT]), name.clone(), words(&[ROOT]), string("x")].concat();
        for (kind, body) in [
            (kind::LCREATE, create),
            (kind::MKDIR, mkdir),
            (kind::LINK, link),
            (kind::UNLINKAT, unlink),
            (kind::RENAMEAT, away),
            (kind::RENAMEAT, here),
        ] {
            assert_eq!(client.call(kind, &body), Err(Errno::INVAL), "{kind} {name:?}");
        }
    }
    assert_eq!(fs::read_dir(client.folder.path()).unwrap().count(), 3);
    assert_eq!(fs::read_dir(client.path("share")).unwrap().count(), 2);
}

#[test]
fn symbolic_links_are_never_followed() {
    let mut client = Client::new(false);
    symlink(client.path("secret"), client.path("share/link")).unwrap();
    symlink("../outside", client.path("share/folder")).unwrap();
    assert!(client.contents(&["link"]).is_err());
    assert!(client.contents(&["folder", "file"]).is_err());
    assert!(client.open(&["folder"], 0).is_err());
    let handle = client.walk(&["link"]).unwrap();
    let target = client.call(kind::READLINK, &words(&[handle])).unwrap();
    assert_eq!(target, string(client.path("secret").to_str().unwrap()));
    let before = fs::metadata(client.path("secret")).unwrap();
    // Everything a Tsetattr can ask for, one after the other.
    for valid in 0..9 {
        let _ = client.call(kind::SETATTR, &attributes(handle, 1 << valid, 0o600, 0));
    }
    let after = fs::metadata(client.path("secret")).unwrap();
    assert_eq!(
        (before.mode(), before.len(), before.mtime_nsec()),
        (after.mode(), after.len(), after.mtime_nsec())
    );
    let link = [words(&[ROOT, handle]), string("hard")].concat();
    if client.call(kind::LINK, &link).is_ok() {
        assert!(fs::symlink_metadata(client.path("share/hard")).unwrap().is_symlink());
    }
    let create = client.create("link", 0o644);
    assert_eq!(create, Err(Errno::EXIST));
    assert_eq!(fs::read_to_string(client.path("secret")).unwrap(), "secret");
}

#[test]
fn a_folder_swapped_for_a_link_at_any_moment_leads_nowhere() {
    let mut client = Client::new(false);
    let (folder, link) = (client.path("share/sub"), client.path("share/swap"));
    symlink(client.path("outside"), &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                use rustix::fs::{CWD, RenameFlags, renameat_with};
                renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..2000 {
            if let Ok(contents) = client.contents(&["sub", "file"]) {
                assert_eq!(contents, "deeper");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_folder_shared_stays_the_one_that_was_opened() {
    let mut client = Client::new(false);
    fs::rename(client.path("share"), client.path("moved")).unwrap();
    symlink(client.path("outside"), client.path("share")).unwrap();
    client.attach();
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
}

#[test]
fn pipes_sockets_and_devices_are_seen_and_never_opened() {
    let mut client = Client::new(false);
    let pipe = client.path("share/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(client.path("share/socket")).unwrap();
    let device = client.path("share/null");
    let number = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    let mut names = vec!["pipe", "socket"];
    match rustix::fs::mknodat(rustix::fs::CWD, &device, kind, 0o666.into(), number) {
        Ok(()) => names.push("null"),
        Err(error) => skipped(&format!("device nodes, which only root can make: {error}")),
    }
    for name in names {
        for flags in [0, 1, 2, TRUNCATE] {
            assert_eq!(client.open(&[name], flags), Err(Errno::ACCESS), "{name}");
        }
        let handle = client.walk(&[name]).unwrap();
        let size = attributes(handle, 8, 0, 0);
        assert_eq!(client.call(kind::SETATTR, &size), Err(Errno::INVAL), "{name}");
    }
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let mut client = Client::new(true);
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
    for flags in [1, 2, TRUNCATE, 0o100, 0o2000] {
        assert_eq!(client.open(&["file"], flags), Err(Errno::ROFS), "{flags:o}");
    }
    let handle = client.open(&["file"], 0).unwrap();
    let name = string("file");
    let other = string("other");
    let zero = words(&[0]);
    for (kind, body) in [
        (kind::LCREATE, [&words(&[handle])[..], &other, &words(&[0, 0o644, 0])].concat()),
        (kind::SYMLINK, [&words(&[ROOT])[..], &other, &name, &zero].concat()),
        (kind::MKNOD, [&words(&[ROOT])[..], &other, &words(&[0o10644, 0, 0, 0])].concat()),
        (kind::RENAME, [&words(&[handle, ROOT])[..], &other].concat()),
        (kind::SETATTR, attributes(handle, 1, 0o600, 0)),
        (kind::XATTRCREATE, [&words(&[handle])[..], &name, &[0; 12]].concat()),
        (kind::LINK, [&words(&[ROOT, handle])[..], &other].concat()),
        (kind::MKDIR, [&words(&[ROOT])[..], &other, &words(&[0o755, 0])].concat()),
        (kind::RENAMEAT, [&words(&[ROOT])[..], &name, &words(&[ROOT]), &other].concat()),
        (kind::UNLINKAT, [&words(&[ROOT])[..], &name, &zero].concat()),
        (kind::WRITE, [&words(&[handle, 0, 0, 1])[..], b"x"].concat()),
        (kind::REMOVE, words(&[handle])),
    ] {
        assert_eq!(client.call(kind, &body), Err(Errno::ROFS), "{kind}");
    }
    // What nobody knows changes nothing either.
    for kind in [0, 5, 28, 34, 78, 112, 126, 255] {
        let answer = client.raw(&message(kind, 77, &[0; 64]), 100);
        assert_eq!(answer[4], kind::RLERROR, "{kind}");
    }
    assert_eq!(fs::read_to_string(client.path("share/file")).unwrap(), "shared");
    assert_eq!(fs::read_dir(client.path("share")).unwrap().count(), 2);
}

#[test]
fn a_guest_cannot_make_a_program_that_runs_as_its_owner() {
    let mut client = Client::new(false);
    client.create("program", 0o6755).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7000;
    assert_eq!(mode(&client.path("share/program")), 0);
    let handle = client.walk(&["program"]).unwrap();
    client.call(kind::SETATTR, &attributes(handle, 1, 0o6777, 0)).unwrap();
    assert_eq!(mode(&client.path("share/program")), 0);
    assert_eq!(fs::metadata(client.path("share/program")).unwrap().mode() & 0o777, 0o777);
}

#[test]
fn a_guest_holds_no_more_handles_than_the_process_can_spare() {
    let folder = tree();
    let root = fs::File::open(folder.path().join("share")).unwrap();
    let options = plan9::Options { max_handles: 3, ..plan9::Options::default() };
    let mut guard = plan9::Guard::new(root.into(), options).unwrap();
    let mut call = |kind, body: &[u8]| {
        let mut answer = plan9::Buffer::default();
        let mut request = message(kind, 1, body);
        guard.handle(&mut request, std::io::empty(), &mut answer, 8192).unwrap();
        result(kind, answer.bytes())
    };
    let attach = [words(&[ROOT, u32::MAX]), string(""), string(""), words(&[0])].concat();
    call(kind::ATTACH, &attach).unwrap();
    let clone = |handle| [words(&[ROOT, handle]), vec![0, 0]].concat();
    call(kind::WALK, &clone(1)).unwrap();
    call(kind::WALK, &clone(2)).unwrap();
    assert_eq!(call(kind::WALK, &clone(3)), Err(Errno::MFILE));
    let missing = [words(&[ROOT, 2]), vec![1, 0], string("none")].concat();
    assert!(call(kind::WALK, &missing).is_err());
    call(kind::CLUNK, &words(&[1])).unwrap();
    call(kind::WALK, &clone(3)).unwrap();
}

#[test]
fn malformed_and_oversized_requests_get_an_error_with_their_tag() {
    let mut client = Client::new(false);
    let whole = message(kind::WALK, 0x1234, &[0; 10]);
    let mut short = whole.clone();
    short.truncate(12);
    let mut long = whole.clone();
    long[..4].copy_from_slice(&9000u32.to_le_bytes());
    let mut tiny = whole.clone();
    tiny[..4].copy_from_slice(&6u32.to_le_bytes());
    let mut lying = whole.clone();
    lying[15..17].copy_from_slice(&[3, 0]);
    for request in [&short, &long, &tiny, &lying] {
        let answer = client.raw(request, 100);
        assert_eq!((answer[4], &answer[5..7]), (kind::RLERROR, &[0x34, 0x12][..]));
    }
    assert!(client.raw(&whole[..6], 100).is_empty(), "no tag to answer to");
    assert!(client.raw(&whole, 10).is_empty(), "no room to answer in");
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
}

#[test]
fn an_answer_never_exceeds_the_room_for_it() {
    let mut client = Client::new(false);
    let handle = client.open(&["file"], 0).unwrap();
    let read = message(kind::READ, 1, &words(&[handle, 0, 0, u32::MAX]));
    assert_eq!(client.raw(&read, 11 + 3)[11..], *b"sha", "a short read");
    assert_eq!(client.raw(&read, 8192)[11..], *b"shared");
    let attributes = [&words(&[handle])[..], &0x7ff_u64.to_le_bytes()].concat();
    let answer = client.raw(&message(kind::GETATTR, 1, &attributes), 40);
    assert_eq!(answer[4], kind::RLERROR, "no half answers");
    let folder = client.open(&[], 0).unwrap();
    let list = message(kind::READDIR, 1, &words(&[folder, 0, 0, 8000]));
    assert!(client.raw(&list, 60).len() <= 60);
}

#[test]
fn a_tag_used_twice_at_once_is_answered_twice() {
    let mut client = Client::new(false);
    let handle = client.open(&["file"], 0).unwrap();
    let read = message(kind::READ, 5, &words(&[handle, 0, 0, 6]));
    for _ in 0..2 {
        client.driver.add(0, &[Buffer::Out(&read), Buffer::In(100)]);
    }
    client.driver.kick(0);
    for _ in 0..2 {
        let used = client.driver.wait_used(0);
        assert_eq!(&used.data[11..used.length as usize], b"shared");
    }
}

#[test]
fn a_pause_keeps_handles_and_a_reset_drops_them() {
    let mut client = Client::new(false);
    let handle = client.open(&["file"], 0).unwrap();
    client.driver.stop();
    client.driver.resume();
    assert_eq!(client.read(handle, 10).unwrap(), b"shared");
    client.driver.reset();
    assert_eq!(client.read(handle, 10), Err(Errno::BADF));
    client.attach();
    assert_eq!(client.contents(&["file"]).unwrap(), "shared");
}

/// A request that is whole, with handles that may exist and names that may not.
fn plausible(random: &mut Random) -> Vec<u8> {
    let kind = random.pick(&[
        8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 100, 104, 108,
        110, 110, 110, 116, 118, 120, 122,
    ]);
    let mut body = Vec::new();
    for _ in 0..1 + random.below(6) {
        match random.below(5) {
            0 => body.extend(string(random.pick(&["file", "sub", "..", "a/b", "9P2000.L", ""]))),
            1 => body.extend((random.below(4) as u16).to_le_bytes()),
            2 => body.extend(random.next().to_le_bytes()),
            _ => body.extend((random.below(5) as u32).to_le_bytes()),
        }
    }
    if kind == kind::ATTACH {
        body = [words(&[0, u32::MAX]), string(""), string(""), words(&[0])].concat();
    }
    let mut request = message(kind, random.next() as u16, &body);
    if random.one_in(20) {
        request[..4].copy_from_slice(&(random.next() as u32).to_le_bytes());
    }
    request
}

#[test]
fn a_malicious_driver_breaks_nothing_and_reaches_nothing() {
    for seed in 0..4 {
        let folder = tree();
        let share = Plan9::new("9p0", "home", &folder.path().join("share"), false).unwrap();
        attack(Box::new(share), seed, |_, random| plausible(random));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        assert_eq!(fs::read_to_string(folder.path().join("secret")).unwrap(), "secret");
        let outside = folder.path().join("outside/file");
        assert_eq!(fs::read_to_string(outside).unwrap(), "secret");
    }
}
