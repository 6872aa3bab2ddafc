//! The VMs in the desktop's tray: a watcher as desktops have one, and busctl and gdbus in place of those who show items,
//! which know nothing of this program but what the bus tells.

#[path = "support/session.rs"]
mod session;
mod support;

use session::{Notes, Program, bus, there};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};
use support::{Desk, Said, kill, kvm, wait_until};

const WATCHER: &str = "org.kde.StatusNotifierWatcher";
const ITEM: &str = "/StatusNotifierItem";
const MENU: &str = "/MenuBar";
const ITEM_INTERFACE: &str = "org.kde.StatusNotifierItem";
const MENU_INTERFACE: &str = "com.canonical.dbusmenu";

/// What items were registered, in this order.
type Registered = Arc<Mutex<Vec<String>>>;

struct Watcher {
    registered: Registered,
    /// Its name goes with it.
    _connection: zbus::Connection,
    _runtime: tokio::runtime::Runtime,
}

struct Object(Registered);

#[zbus::interface(name = "org.kde.StatusNotifierWatcher")]
impl Object {
    fn register_status_notifier_item(&self, service: String) {
        self.0.lock().unwrap().push(service);
    }
}

struct Session {
    desk: Desk,
    notes: Notes,
    _daemon: Program,
    _bus: Program,
}

impl Session {
    fn new() -> Option<Self> {
        if !["dbus-daemon", "busctl", "gdbus"].into_iter().all(there) || !kvm() {
            return None;
        }
        let desk = Desk::new();
        let bus = bus(&desk.path("run"));
        let notes = Notes::serve(&desk.path("run"));
        let log = File::create(desk.path("daemon.log")).unwrap();
        let test = std::env::current_exe().unwrap();
        let compositor = test.ancestors().nth(2).unwrap().join("examples/compositor_end");
        let mut daemon = desk.daemon();
        daemon.env("MACROHARD_COMPOSITOR", compositor).env("DISPLAY", ":4711").stderr(log);
        let daemon = Program(daemon.spawn().unwrap());
        wait_until("the daemon", || desk.daemon_answers());
        Some(Self { desk, notes, _daemon: daemon, _bus: bus })
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.desk.path("run/bus").display())
    }

    fn watcher(&self) -> Watcher {
        let registered = Registered::default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (address, object) = (self.address(), Object(Arc::clone(&registered)));
        let connection = runtime.block_on(async {
            let builder = zbus::connection::Builder::address(address.as_str());
            builder.serve_at("/StatusNotifierWatcher", object).name(WATCHER).build().await.unwrap()
        });
        Watcher { registered, _connection: connection, _runtime: runtime }
    }

    /// A VM with a screen, running.
    fn vm_with_screen(&self) {
        self.desk.create("vm");
        let mut definition = File::options().append(true).open(self.desk.definition("vm")).unwrap();
        definition.write_all(b"\n[display]\n\n[windows]\ncolour = \"#123456\"\n").unwrap();
        self.start();
    }

    fn start(&self) {
        self.desk.cli(&["start", "vm"]).ok();
        self.desk.wait_for_console("vm", "ready");
    }

    fn busctl(&self, arguments: &[&str]) -> Said {
        let mut command = self.desk.command("busctl");
        command.arg(format!("--address={}", self.address())).args(arguments);
        command.output().unwrap().into()
    }

    fn is_on_bus(&self, name: &str) -> bool {
        self.busctl(&["status", name]).code == Some(0)
    }

    fn items(&self) -> Vec<String> {
        let names = self.busctl(&["list", "--acquired", "--no-legend"]).ok().out;
        let names = names.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with(ITEM_INTERFACE)).map(str::to_owned).collect()
    }

    fn property(&self, item: &str, name: &str) -> String {
        let said = self.busctl(&["get-property", item, ITEM, ITEM_INTERFACE, name]).ok();
        said.out.trim().to_owned()
    }

    fn call(&self, item: &str, object: &str, method: &str, arguments: &[&str]) -> Said {
        let mut command = self.desk.command("gdbus");
        command.args(["call", "--address", &self.address(), "--dest", item]);
        // What follows `--` is no option: -1 is a number.
        command.args(["--object-path", object, "--method", method, "--"]).args(arguments);
        command.output().unwrap().into()
    }

    fn menu(&self, item: &str, method: &str, arguments: &[&str]) -> Said {
        self.call(item, MENU, &format!("{MENU_INTERFACE}.{method}"), arguments)
    }

    fn click(&self, item: &str, entry: &str) {
        self.menu(item, "Event", &[entry, "clicked", "<''>", "0"]).ok();
    }

    fn activate(&self, item: &str) {
        self.call(item, ITEM, &format!("{ITEM_INTERFACE}.Activate"), &["1", "2"]).ok();
    }

    /// The definition and the item agree.
    fn wait_for_seamless(&self, item: &str, seamless: bool) {
        wait_until(&format!("seamless is {seamless}"), || {
            self.desk.status("vm")["windows"]["seamless"] == seamless
        });
        let state = format!("'toggle-state': <{}>", i32::from(seamless));
        wait_until(&format!("the menu shows {state}"), || {
            self.menu(item, "GetGroupProperties", &["[1]", "[]"]).ok().out.contains(&state)
        });
        let text = if seamless { "windows of this desktop" } else { "one window" };
        assert!(self.property(item, "ToolTip").contains(text));
    }
}

impl Watcher {
    /// The one item that is registered after `before` others.
    fn item(&self, before: usize) -> String {
        wait_until("an item is registered", || self.registered.lock().unwrap().len() > before);
        let registered = self.registered.lock().unwrap();
        assert_eq!(registered.len(), before + 1, "{registered:?}");
        registered[before].clone()
    }
}

#[test]
fn a_running_vm_with_a_screen_is_in_the_tray_until_it_ends() {
    let Some(session) = Session::new() else { return };
    session.vm_with_screen();
    session.desk.start("without-screen");
    assert_eq!(session.items(), Vec::<String>::new(), "an item without a tray");

    // A tray that comes late has it; what shows nothing has none.
    let watcher = session.watcher();
    let item = watcher.item(0);
    assert!(session.is_on_bus(&item));
    assert_eq!(session.items(), std::slice::from_ref(&item));
    assert_eq!(session.property(&item, "Id"), "s \"macrohard-vm\"");
    assert_eq!(session.property(&item, "Title"), "s \"vm\"");
    assert_eq!(session.property(&item, "Status"), "s \"Active\"");
    assert_eq!(session.property(&item, "Menu"), format!("o \"{MENU}\""));
    let icon = session.property(&item, "IconPixmap");
    assert!(icon.starts_with("a(iiay) 2 24 24 2304 0 0 0 0 "), "{icon:.60}");
    assert!(icon.contains(" 255 18 52 86 "), "not #123456");

    // Another watcher is told anew.
    drop(watcher);
    wait_until("the item goes with the tray", || !session.is_on_bus(&item));
    let watcher = session.watcher();
    let item = watcher.item(0);

    // It ends in order, by the menu; comes again, and ends otherwise.
    session.click(&item, "3");
    session.desk.wait_for_state("vm", "stopped");
    wait_until("the item goes with the VM", || !session.is_on_bus(&item));
    session.start();
    let item = watcher.item(1);
    kill(session.desk.vm_pid("vm"));
    wait_until("the item goes with the VM that died", || !session.is_on_bus(&item));
    session.desk.cli(&["stop", "without-screen", "--force"]).ok();
    assert_eq!(watcher.registered.lock().unwrap().len(), 2);
}

#[test]
fn a_click_switches_how_windows_are_shown_and_the_item_follows() {
    let Some(session) = Session::new() else { return };
    let watcher = session.watcher();
    session.vm_with_screen();
    let item = watcher.item(0);
    session.wait_for_seamless(&item, true);
    let layout = session.menu(&item, "GetLayout", &["0", "-1", "[]"]).ok().out;
    for part in ["'label': <'Seamless windows'>", "<'checkmark'>", "<'separator'>", "Stop the VM"] {
        assert!(layout.contains(part), "no {part} in {layout}");
    }
    let labels = session.menu(&item, "GetLayout", &["0", "1", "['label']"]).ok().out;
    assert!(labels.contains("Seamless") && !labels.contains("toggle"), "{labels}");
    let icon = session.property(&item, "IconPixmap");
    session.activate(&item);
    session.wait_for_seamless(&item, false);
    assert_ne!(session.property(&item, "IconPixmap"), icon);
    session.click(&item, "1");
    session.wait_for_seamless(&item, true);
    assert_eq!(session.property(&item, "IconPixmap"), icon);
    // Each of several clicks counts.
    let events = "[(1, 'clicked', <''>, 0), (1, 'clicked', <0>, 0), (1, 'clicked', <''>, 0)]";
    assert_eq!(session.menu(&item, "EventGroup", &[events]).ok().out.trim(), "(@ai [],)");
    session.wait_for_seamless(&item, false);
    // And what others change shows.
    session.desk.cli(&["seamless", "vm", "--enable"]).ok();
    session.wait_for_seamless(&item, true);
    session.desk.cli(&["stop", "vm", "--force"]).ok();
}

#[test]
fn a_vm_that_can_only_be_looked_at_is_not_changed_by_clicks_and_nonsense_changes_nothing() {
    let Some(session) = Session::new() else { return };
    let watcher = session.watcher();
    session.vm_with_screen();
    let item = watcher.item(0);
    for (method, arguments) in [
        ("Event", &["99", "clicked", "<''>", "0"][..]),
        ("Event", &["-1", "clicked", "<''>", "0"]),
        ("GetLayout", &["7", "-1", "[]"]),
        ("GetProperty", &["1", "password"]),
        ("AboutToShow", &["4"]),
    ] {
        let said = session.menu(&item, method, arguments);
        assert_eq!(said.code, Some(1), "{method} {arguments:?}: {said:?}");
        assert!(said.err.contains("InvalidArgs"), "{said:?}");
    }
    session.menu(&item, "Event", &["3", "hovered", "<''>", "0"]).ok();
    session.menu(&item, "Event", &["2", "clicked", "<''>", "0"]).ok();
    let many = format!("[{}]", vec!["3"; 10_000].join(","));
    let answer = session.menu(&item, "GetGroupProperties", &[&many, "[]"]).ok().out;
    assert_eq!(answer.matches("Stop the VM").count(), 1);
    let unknown = "[(8, 'clicked', <''>, 0), (2, 'clicked', <''>, 0)]";
    assert_eq!(session.menu(&item, "EventGroup", &[unknown]).ok().out.trim(), "([8],)");

    session.desk.cli(&["integration", "vm", "--bus-control", "off"]).ok();
    wait_until("entries are grey", || {
        let layout = session.menu(&item, "GetLayout", &["0", "-1", "[]"]).ok().out;
        layout.matches("'enabled': <false>").count() == 2
    });
    session.click(&item, "3");
    session.notes.wait_for("bus-control = false");
    session.activate(&item);
    wait_until("a second refusal", || session.notes.all().len() == 2);
    assert_eq!(session.desk.state("vm"), "running");
    session.wait_for_seamless(&item, true);
    session.desk.cli(&["stop", "vm", "--force"]).ok();
}
