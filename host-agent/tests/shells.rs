//! The VMs on the session's bus, seen and used by busctl and gdbus, which know nothing of this program but what the
//! bus tells.

#[path = "support/session.rs"]
mod session;
mod support;

use session::{Program, bus, there};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use support::{Desk, Said, kill, kvm, wait_until};

const NAME: &str = "org.macrohard.Hypervisor1";
const ROOT: &str = "/org/macrohard/Hypervisor1";
const MACHINE: &str = "org.macrohard.Hypervisor1.Machine";
/// The object of a VM called "a-vm".
const OBJECT: &str = "/org/macrohard/Hypervisor1/vm/a_2dvm";

struct Session {
    desk: Desk,
    _bus: Program,
}

impl Session {
    fn new() -> Option<Self> {
        if !["dbus-daemon", "busctl", "gdbus"].into_iter().all(there) {
            return None;
        }
        let desk = Desk::new();
        let bus = bus(&desk.path("run"));
        let session = Self { desk, _bus: bus };
        // The first command starts the daemon.
        session.desk.cli(&["list"]).ok();
        wait_until("the name on the bus", || session.busctl(&["status", NAME]).code == Some(0));
        Some(session)
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.desk.path("run/bus").display())
    }

    fn busctl(&self, arguments: &[&str]) -> Said {
        let mut command = self.desk.command("busctl");
        command.arg(format!("--address={}", self.address())).args(arguments);
        command.output().unwrap().into()
    }

    fn property(&self, name: &str) -> String {
        let said = self.busctl(&["get-property", NAME, OBJECT, MACHINE, name]).ok();
        said.out.trim().to_owned()
    }

    fn call(&self, method: &str, arguments: &[&str]) -> Said {
        let fixed = ["--timeout=60", "call", NAME, OBJECT, MACHINE, method];
        self.busctl(&[&fixed, arguments].concat())
    }

    fn tree(&self) -> String {
        self.busctl(&["tree", "--list", NAME]).ok().out
    }

    /// What gdbus hears from now on.
    fn monitor(&self) -> Heard {
        let mut command = self.desk.command("gdbus");
        command.args(["monitor", "--address", &self.address(), "--dest", NAME]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::<Mutex<String>>::default();
        let (out, to) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let mut lines = to.lock().unwrap();
                lines.push_str(&line);
                lines.push('\n');
            }
        });
        let heard = Heard { lines, _program: Program(child) };
        heard.wait_for(&["is owned by"]);
        heard
    }
}

struct Heard {
    lines: Arc<Mutex<String>>,
    _program: Program,
}

impl Heard {
    fn wait_for(&self, words: &[&str]) {
        wait_until(&format!("a line with {words:?}"), || {
            let lines = self.lines.lock().unwrap();
            lines.lines().any(|line| words.iter().all(|word| line.contains(word)))
        });
    }
}

#[test]
fn vms_come_and_go_on_the_bus_and_tell_their_state() {
    if !kvm() {
        return;
    }
    let Some(session) = Session::new() else { return };
    let desk = &session.desk;
    assert!(!session.tree().contains("/vm/"));
    let heard = session.monitor();
    desk.create("a-vm");
    heard.wait_for(&[ROOT, "InterfacesAdded", OBJECT, MACHINE, "a-vm"]);
    assert!(session.tree().lines().any(|line| line == OBJECT), "{}", session.tree());
    assert_eq!(session.property("Name"), "s \"a-vm\"");
    assert_eq!(session.property("State"), "s \"created\"");
    let all = session.busctl(&[
        "call",
        NAME,
        ROOT,
        "org.freedesktop.DBus.ObjectManager",
        "GetManagedObjects",
    ]);
    assert!(all.ok().out.contains(OBJECT));

    // What the bus tells of itself is what the book says.
    let introspected = session.busctl(&["introspect", NAME, OBJECT, MACHINE]).ok().out;
    let mut members: Vec<String> = introspected
        .lines()
        .filter(|line| line.starts_with('.'))
        .map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" "))
        .collect();
    members.sort();
    assert_eq!(
        members,
        [
            ".Controllable property b true",
            ".Launch method sas -",
            ".ListApplications method - a(sss)",
            ".Name property s \"a-vm\"",
            ".Start method - -",
            ".State property s \"created\"",
            ".Stop method u -",
        ]
    );

    session.call("Start", &[]).ok();
    heard.wait_for(&[OBJECT, "PropertiesChanged", "'State': <'running'>"]);
    assert_eq!(session.property("State"), "s \"running\"");
    desk.wait_for_console("a-vm", "ready");
    session.call("Start", &[]).refused(1, &["is running"]);
    session.call("Stop", &["u", "4000000"]).refused(1, &["allowed: 0 to 86400"]);
    assert_eq!(session.call("ListApplications", &[]).ok().out.trim(), "a(sss) 0");
    session.call("Launch", &["sas", "../x", "0"]).refused(1, &["is not the id of an application"]);
    session.call("Stop", &["u", "60"]).ok();
    heard.wait_for(&[OBJECT, "PropertiesChanged", "'State': <'stopped'>"]);

    // A change that another client makes, and one that nobody made.
    desk.cli(&["start", "a-vm"]).ok();
    wait_until("it runs", || session.property("State") == "s \"running\"");
    kill(desk.vm_pid("a-vm"));
    heard.wait_for(&[OBJECT, "PropertiesChanged", "'State': <'crashed'>"]);

    desk.cli(&["delete", "a-vm", "--yes"]).ok();
    heard.wait_for(&[ROOT, "InterfacesRemoved", OBJECT]);
    assert!(!session.tree().contains("/vm/"));
}

#[test]
fn a_vm_whose_policy_says_so_can_only_be_looked_at() {
    if !kvm() {
        return;
    }
    let Some(session) = Session::new() else { return };
    let desk = &session.desk;
    desk.create("a-vm");
    wait_until("it is there", || session.tree().contains(OBJECT));
    let heard = session.monitor();
    desk.cli(&["integration", "a-vm", "--bus-control", "off"]).ok();
    heard.wait_for(&[OBJECT, "PropertiesChanged", "'Controllable': <false>"]);
    for (method, arguments) in
        [("Start", &[][..]), ("Stop", &["u", "0"]), ("Launch", &["sas", "x", "0"])]
    {
        session.call(method, arguments).refused(1, &["bus-control = false"]);
    }
    assert_eq!(session.property("State"), "s \"created\"");
    session.call("ListApplications", &[]).ok();
    desk.cli(&["integration", "a-vm", "--bus-control", "on"]).ok();
    session.call("Start", &[]).ok();
    assert_eq!(session.property("State"), "s \"running\"");
}

#[test]
fn a_bus_that_comes_late_or_comes_anew_has_the_vms() {
    if !["dbus-daemon", "busctl", "gdbus"].into_iter().all(there) {
        return;
    }
    let desk = Desk::new();
    desk.cli(&["list"]).ok();
    let mut session = Session { _bus: bus(&desk.path("run")), desk };
    let named = |session: &Session| session.busctl(&["status", NAME]).code == Some(0);
    wait_until("the name on the bus", || named(&session));
    std::fs::remove_file(session.desk.path("run/bus")).unwrap();
    let folder = session.desk.path("run");
    session._bus = bus(&folder);
    wait_until("the name on the new bus", || named(&session));
}
