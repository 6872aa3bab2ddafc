//! What a shared folder is to a person at the host: `share add`, `list`, `remove`, on a VM that runs and on
//! one that does not. The VM runs a tiny guest; a client in its place speaks to the shares as its kernel
//! would, and an agent in its place answers.

mod support;

use agent_link::{Address, Direction, Hello, Role, Token, channel, introduce, serve};
use plan9::client::Client;
use proto::stand_in::guest_server::GuestServer;
use proto::v1::ReadyRequest;
use proto::v1::host_client::HostClient;
use rustix::io::Errno;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use support::{Desk, is_alive, kill, qemu, wait_until};
use tokio::runtime::Runtime;

/// A VM with a running tiny guest, and folders beside it.
fn running() -> Desk {
    let desk = Desk::new();
    let guest = desk.text("multiboot.bin");
    let machine = ["--kernel", &guest, "--memory", "32", "--net", "none"];
    let mut arguments = vec!["create", "--name", "vm", "--engine", "tcg"];
    arguments.extend(machine);
    desk.cli(&arguments).ok();
    for (path, text) in [("one/file", "one"), ("two/file", "two"), ("one/secret", "secret")] {
        let path = desk.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    desk.cli(&["start", "vm"]).ok();
    desk.wait_for_console("vm", "ready");
    desk
}

/// The VM's runtime folder; the desk has one VM.
fn runtime(desk: &Desk) -> PathBuf {
    let mut folders = fs::read_dir(desk.runtime().join("vms")).unwrap();
    folders.next().unwrap().unwrap().path()
}

fn token(desk: &Desk) -> Token {
    let launch = fs::read(runtime(desk).join("launch.json")).unwrap();
    let launch: serde_json::Value = serde_json::from_slice(&launch).unwrap();
    launch["agent_token"].as_str().unwrap().parse().unwrap()
}

/// The records of its share processes: tag, port, process.
fn processes(desk: &Desk) -> Vec<(String, u32, u32)> {
    let Ok(mut folders) = fs::read_dir(desk.runtime().join("shares")) else {
        return Vec::new();
    };
    let Some(Ok(folder)) = folders.next() else {
        return Vec::new();
    };
    let read = |path: &Path| {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let port = u32::try_from(record["port"].as_u64()?).ok()?;
        let pid = fs::read_to_string(path.with_extension("pid")).ok()?.trim().parse().ok()?;
        Some((record["wanted"]["tag"].as_str()?.to_owned(), port, pid))
    };
    let records = fs::read_dir(folder.path()).into_iter().flatten().flatten();
    let records = records.map(|entry| entry.path());
    let mut found: Vec<_> = records
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .filter_map(|path| read(&path))
        .collect();
    found.sort();
    found
}

fn process(desk: &Desk, tag: &str) -> (u32, u32) {
    let found = processes(desk).into_iter().find(|(it, ..)| it == tag);
    found.map(|(_, port, pid)| (port, pid)).unwrap_or_else(|| panic!("no process of {tag}"))
}

/// Waits until another process than `pid` serves the share; the moment between them has none.
fn wait_for_another(desk: &Desk, tag: &str, pid: u32) {
    wait_until("a new process", || {
        let mut found = processes(desk).into_iter();
        let Some((_, port, _)) = found.find(|it| it.0 == tag && it.2 != pid) else {
            return false;
        };
        // Its predecessor's socket refuses.
        UnixStream::connect(runtime(desk).join(format!("vsock.sock_{port}"))).is_ok()
    });
}

/// What the guest's kernel would hold, for user 1000.
fn mount(desk: &Desk, tag: &str) -> Client<UnixStream> {
    let (port, _) = process(desk, tag);
    let path = runtime(desk).join(format!("vsock.sock_{port}"));
    let mut stream = UnixStream::connect(path).unwrap();
    let direction = Direction::Share { user: 1000, group: 1000 };
    let proof = token(desk).proof(Role::System);
    let hello = Hello { role: Role::System, direction, proof };
    stream.write_all(format!("{hello}\n").as_bytes()).unwrap();
    let mut said = [0; 3];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ok\n");
    Client::attach(stream)
}

fn list(desk: &Desk) -> Vec<serde_json::Value> {
    let said = desk.cli(&["share", "list", "vm", "--json"]).ok().json();
    said["shares"].as_array().unwrap().clone()
}

fn state(desk: &Desk, tag: &str) -> String {
    let shares = list(desk);
    let share = shares.iter().find(|share| share["tag"] == tag);
    share.map_or(String::new(), |share| share["state"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn shares_of_a_vm_that_does_not_run_are_kept_in_its_definition_beside_a_persons_comments() {
    let desk = Desk::new();
    desk.create("vm");
    let path = desk.definition("vm");
    let text = fs::read_to_string(&path).unwrap() + "\n# Mine.\n";
    fs::write(&path, &text).unwrap();
    fs::create_dir(desk.path("my files")).unwrap();
    let folder = desk.text("my files");
    desk.cli(&["share", "add", "vm", &folder, "--read-only"]).ok();
    let shares = list(&desk);
    assert_eq!(shares.len(), 1);
    assert_eq!((&shares[0]["tag"], &shares[0]["way"]), (&"my_files".into(), &"9p-vsock".into()));
    assert!(shares[0]["read_only"].as_bool().unwrap() && shares[0].get("state").is_none());
    let now = fs::read_to_string(&path).unwrap();
    assert!(text.lines().all(|line| now.contains(line)), "{now}");
    desk.cli(&["share", "add", "vm", &folder]).refused(2, &["share[1].tag", "my_files"]);
    desk.cli(&["share", "add", "vm", &folder, "--tag", ".x"]).refused(2, &["share[1].tag"]);
    desk.cli(&["share", "add", "vm", "/no/such"]).refused(1, &["/no/such"]);
    desk.cli(&["share", "add", "vm", "/dev/null"]).refused(1, &["neither a file nor a folder"]);
    desk.cli(&["share", "add", "vm", &desk.text("guest.bin")]).refused(1, &["start it first"]);
    let own = desk.text("home/.config/macrohard");
    desk.cli(&["share", "add", "vm", &own]).refused(1, &["macrohard-hypervisor itself"]);
    desk.cli(&["share", "remove", "vm", "none"]).refused(1, &["no share \"none\"", "share list"]);
    desk.cli(&["share", "remove", "vm", "my_files"]).ok();
    assert_eq!(list(&desk).len(), 0);
    assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), text.trim_end());
}

#[test]
fn a_folder_is_shared_with_a_running_vm_until_it_is_removed() {
    if !qemu() {
        return;
    }
    let desk = running();
    desk.cli(&["share", "add", "vm", &desk.text("one")]).ok();
    desk.cli(&["share", "add", "vm", &desk.text("two"), "--read-only", "--tag", "fixed"]).ok();
    assert!(state(&desk, "one").contains("no agent"), "{}", state(&desk, "one"));
    let (mut one, mut fixed) = (mount(&desk, "one"), mount(&desk, "fixed"));
    one.write(&["file"], "from the guest").unwrap();
    assert_eq!(fs::read_to_string(desk.path("one/file")).unwrap(), "from the guest");
    assert_eq!(fixed.write(&["file"], "x"), Err(Errno::ROFS));

    // The daemon dies: mounts go on, and the next one finds the processes.
    let before = processes(&desk);
    kill(desk.daemon_pid());
    assert_eq!(one.contents(&["file"]).unwrap(), "from the guest");
    assert_eq!(list(&desk).len(), 2);
    desk.cli(&["share", "remove", "vm", "fixed"]).ok();
    let (_, _, fixed_process) = before.iter().find(|(tag, ..)| tag == "fixed").unwrap();
    wait_until("the removed share's end", || !is_alive(*fixed_process));
    let left: Vec<_> = before.iter().filter(|(tag, ..)| tag != "fixed").cloned().collect();
    assert_eq!(processes(&desk), left);
    assert_eq!(one.contents(&["file"]).unwrap(), "from the guest");

    // A process dies: the VM and the others go on, and there is a new one.
    let (port, pid) = process(&desk, "one");
    kill(pid);
    wait_for_another(&desk, "one", pid);
    assert_eq!(process(&desk, "one").0, port);
    assert!(one.contents(&["file"]).is_err());
    assert_eq!(desk.state("vm"), "running");
    assert_eq!(mount(&desk, "one").contents(&["file"]).unwrap(), "from the guest");

    // A folder that is gone leaves the rest as it is, and says so.
    fs::create_dir(desk.path("three")).unwrap();
    desk.cli(&["share", "add", "vm", &desk.text("three")]).ok();
    fs::remove_dir(desk.path("three")).unwrap();
    kill(process(&desk, "three").1);
    wait_until("the reason", || state(&desk, "three").contains("cannot be opened"));
    let (_, pid) = process(&desk, "one");
    desk.cli(&["stop", "vm", "--force"]).ok();
    wait_until("the end with the VM", || !is_alive(pid));
    wait_until("nothing left", || processes(&desk).is_empty());

    desk.cli(&["start", "vm"]).ok();
    wait_until("the share at the next start", || processes(&desk).iter().any(|it| it.0 == "one"));
    assert_eq!(mount(&desk, "one").contents(&["file"]).unwrap(), "from the guest");
}

/// Runs agents that say what no agent should until it is dropped.
fn lying_agents(desk: &Desk) -> Runtime {
    let guest = Runtime::new().unwrap();
    let host = runtime(desk).join(format!("vsock.sock_{}", agent_link::PORT));
    for (role, user) in [(Role::System, ""), (Role::User(1000), "alice"), (Role::User(5), "svc")] {
        let (host, token) = (host.clone(), token(desk));
        guest.spawn(async move {
            let connect = async |direction| {
                let mut stream = Address::Unix(host.clone()).connect().await.unwrap();
                let hello = Hello { role, direction, proof: token.proof(role) };
                introduce(&mut stream, &hello).await.unwrap();
                stream
            };
            let serving = connect(Direction::Serves).await;
            let (channel, _gone) = channel(connect(Direction::Calls).await).await.unwrap();
            let ready = ReadyRequest {
                protocol: proto::PROTOCOL,
                features: guest_agent::link::features(role),
                user: user.to_owned(),
                ..ReadyRequest::default()
            };
            // Held: it is the agent's other connection.
            let mut host = HostClient::new(channel);
            host.ready(ready).await.unwrap();
            serve(serving, GuestServer::new(support::LyingGuest)).await.unwrap();
        });
    }
    wait_until("the agents", || {
        desk.status("vm")["agents"].as_array().is_some_and(|a| a.len() == 3)
    });
    guest
}

#[test]
fn the_guest_is_told_and_what_it_says_is_shown_clean() {
    if !qemu() {
        return;
    }
    let desk = running();
    let guest = lying_agents(&desk);
    desk.cli(&["share", "add", "vm", &desk.text("one"), "--tag", "good"]).ok();
    desk.cli(&["share", "add", "vm", &desk.text("two"), "--tag", "full"]).ok();
    // Not for the service's account.
    wait_until("mounted", || state(&desk, "good") == "mounted at ~/Host/good for alice");
    wait_until("the problem", || state(&desk, "full").contains("no room"));
    let shown = state(&desk, "full");
    assert!(!shown.contains('\u{1b}') && shown.len() < 700, "{shown}");

    // A file under a share is there already; another gets a portal, of which others are no part.
    let opened = |file: &str| desk.cli(&["share", "add", "vm", &desk.text(file)]).ok();
    opened("one/file");
    assert_eq!(list(&desk).len(), 2);
    fs::create_dir(desk.path("private")).unwrap();
    for name in ["letter", "note", "secret"] {
        fs::write(desk.path(&format!("private/{name}")), name).unwrap();
    }
    opened("private/letter");
    opened("private/note");
    opened("private/note");
    assert_eq!(list(&desk).len(), 3, "two files of one folder share a portal");
    let mut portal = mount(&desk, "opened-1");
    assert_eq!(portal.list(&[], 4000).unwrap(), [".", "..", "letter", "note"]);
    assert_eq!(portal.contents(&["secret"]), Err(Errno::NOENT));
    let arguments = ["share", "add", "vm", &desk.text("private/letter"), "--tag", "x"];
    desk.cli(&arguments).refused(2, &["is a file"]);
    desk.cli(&["share", "add", "vm", &desk.text("one"), "--tag", "opened-1"])
        .refused(2, &["that of an opened file"]);

    // A portal outlives the daemon and its own process, with its names.
    kill(desk.daemon_pid());
    wait_until("the portal", || list(&desk).iter().any(|share| share["tag"] == "opened-1"));
    let (_, pid) = process(&desk, "opened-1");
    kill(pid);
    wait_for_another(&desk, "opened-1", pid);
    let mut portal = mount(&desk, "opened-1");
    assert_eq!(portal.list(&[], 4000).unwrap(), [".", "..", "letter", "note"]);
    desk.cli(&["share", "remove", "vm", "opened-1"]).ok();
    assert!(processes(&desk).iter().all(|(tag, ..)| tag != "opened-1"));
    assert!(fs::read_to_string(desk.definition("vm")).unwrap().matches("[[share]]").count() == 2);
    drop(guest);
    desk.cli(&["stop", "vm", "--force"]).ok();
}
