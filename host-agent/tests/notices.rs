//! What a guest shows and opens on the host: the real agent in a session of its own, the real daemon in
//! another, independent programs at both ends.

#[path = "support/session.rs"]
mod session;
mod support;

use agent_link::{Address, Channel, Direction, Gone, Hello, Role, Token, channel, introduce};
use proto::v1::host_client::HostClient;
use proto::v1::{
    CloseNotificationRequest, Notification, NotificationAction, OpenUrlRequest, ReadyRequest,
};
use session::{GuestSession, Notes, Program, bus, there};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use support::{Desk, kvm, wait_until};
use tonic::Code;

/// A VM that runs, the session of a person at its host, and what they need.
struct Host {
    desk: Desk,
    notes: Option<Notes>,
    _bus: Program,
}

const VM: &str = "vm";

impl Host {
    fn new() -> Option<Self> {
        let programs = ["dbus-daemon", "notify-send", "xdg-open"];
        if !kvm() || !programs.into_iter().all(there) {
            return None;
        }
        let desk = Desk::new();
        let bus = bus(&desk.path("run"));
        let notes = Some(Notes::serve(&desk.path("run")));
        // xdg-open of a session without a desktop takes the browser from here; the daemon, which the first
        // command starts, hands it on.
        let browser = desk.path("browser");
        let opened = desk.path("opened");
        std::fs::write(
            &browser,
            format!("#!/bin/sh\nprintf '%s|' \"$@\" >> {}\n", opened.display()),
        )
        .unwrap();
        executable(&browser);
        desk.prepared(&["list"]).env("BROWSER", &browser).env("DISPLAY", ":none").output().unwrap();
        desk.start(VM);
        Some(Self { desk, notes, _bus: bus })
    }

    fn notes(&self) -> &Notes {
        self.notes.as_ref().unwrap()
    }

    fn folder(&self) -> PathBuf {
        let mut folders = std::fs::read_dir(self.desk.runtime().join("vms")).unwrap();
        folders.next().unwrap().unwrap().path()
    }

    fn socket(&self) -> PathBuf {
        self.folder().join(format!("vsock.sock_{}", agent_link::PORT))
    }

    fn token(&self) -> Token {
        let launch = std::fs::read(self.folder().join("launch.json")).unwrap();
        let launch: serde_json::Value = serde_json::from_slice(&launch).unwrap();
        launch["agent_token"].as_str().unwrap().parse().unwrap()
    }

    /// Changes what stands under `[integration]`.
    fn set(&self, line: &str) {
        let path = self.desk.definition(VM);
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("[integration]").next().unwrap();
        std::fs::write(&path, format!("{text}\n[integration]\n{line}\n")).unwrap();
    }

    fn opened(&self) -> String {
        std::fs::read_to_string(self.desk.path("opened")).unwrap_or_default()
    }

    fn wait_for_agents(&self, count: usize) {
        wait_until(&format!("{count} agents"), || {
            self.desk.status(VM)["agents"].as_array().map_or(0, Vec::len) == count
        });
    }
}

fn executable(path: &std::path::Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether the session's agent has the name of the notification service.
fn serves(session: &GuestSession) -> bool {
    let asked = session
        .command("dbus-send")
        .args(["--session", "--print-reply", "--dest=org.freedesktop.DBus", "/"])
        .args(["org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.Notifications"])
        .env(
            "DBUS_SESSION_BUS_ADDRESS",
            format!("unix:path={}/bus", session.folder.path().display()),
        )
        .output()
        .unwrap();
    said(&asked).contains("boolean true")
}

fn notify_send(session: &GuestSession, arguments: &[&str]) -> std::process::Command {
    let mut command = session.command("notify-send");
    let address = format!("unix:path={}/bus", session.folder.path().display());
    command.env("DBUS_SESSION_BUS_ADDRESS", address).args(arguments);
    command
}

#[test]
fn a_notification_of_the_guest_is_shown_on_the_host_and_answers_come_back() {
    let Some(host) = Host::new() else { return };
    let session = GuestSession::new(&host.token());
    let mut agent = session.agent(&host.socket());
    wait_until("the agent serves", || serves(&session));

    let picture = session.folder.path().join("icon.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(&picture).unwrap(), 1, 2);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&[1, 2, 3, 4, 5, 6]).unwrap();
    let arguments =
        ["-a", "mailer", "-u", "critical", "-t", "5000", "-i", picture.to_str().unwrap()];
    let mut shown = notify_send(&session, &arguments);
    let shown = shown.args(["New <mail> & more", "from <b>ann</b>\n& you"]).output().unwrap();
    assert!(shown.status.success(), "{}", said(&shown));
    let note = host.notes().wait_for("New <mail>");
    assert_eq!(note.summary, "vm: New <mail> & more");
    assert_eq!(note.application, "mailer (vm)");
    assert_eq!(note.body, "from &lt;b&gt;ann&lt;/b&gt;\n&amp; you");
    // No guest breaks through a "do not disturb".
    assert_eq!((note.urgency, note.timeout), (1, 5000));
    assert_eq!(note.picture, Some((1, 2, vec![1, 2, 3, 255, 4, 5, 6, 255])));

    // An action, and the end of one.
    let mut asking = notify_send(&session, &["-A", "yes=Yes", "-A", "no=No", "Question"]);
    let asking = asking.stdout(Stdio::piped()).spawn().unwrap();
    let note = host.notes().wait_for("Question");
    assert_eq!(note.actions, ["yes", "Yes", "no", "No"]);
    host.notes().choose(note.id, "no");
    let answer = asking.wait_with_output().unwrap();
    assert_eq!(said(&answer).trim(), "no");
    let mut waiting = notify_send(&session, &["--wait", "Waiting"]);
    let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    host.notes().dismiss(host.notes().wait_for("Waiting").id);
    assert!(waiting.wait_with_output().unwrap().status.success());

    // One that replaces another, and one that is taken back.
    let first = notify_send(&session, &["-p", "One"]).output().unwrap();
    let first = said(&first).trim().to_owned();
    let address = format!("unix:path={}/bus", session.folder.path().display());
    // Another program must not touch it.
    let mut foreign = session.command("gdbus");
    foreign.env("DBUS_SESSION_BUS_ADDRESS", &address);
    foreign.args(["call", "--session", "-d", "org.freedesktop.Notifications"]);
    foreign.args(["-o", "/org/freedesktop/Notifications"]);
    foreign.args(["-m", "org.freedesktop.Notifications.CloseNotification", &first]);
    if there("gdbus") {
        assert!(!foreign.output().unwrap().status.success());
    }
    session.block_on(async {
        let bus = zbus::connection::Builder::address(address.as_str()).build().await.unwrap();
        let path = "/org/freedesktop/Notifications";
        let service = zbus::Proxy::new(
            &bus,
            path.trim_start_matches('/').replace('/', "."),
            path,
            "org.freedesktop.Notifications",
        );
        let service = service.await.unwrap();
        let hints = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        let show = async |replaces: u32, summary: &str| -> u32 {
            let none: Vec<&str> = Vec::new();
            let arguments = ("test", replaces, "", summary, "", none, &hints, -1);
            service.call("Notify", &arguments).await.unwrap()
        };
        let id = show(0, "Two").await;
        let two = host.notes().wait_for("Two").id;
        assert_eq!(show(id, "Three").await, id);
        let three = host.notes().wait_for("Three");
        assert_eq!((three.replaces, three.id), (two, two));
        service.call::<_, _, ()>("CloseNotification", &(id,)).await.unwrap();
        host.notes().wait_for_closed(two);
        let again = service.call::<_, _, ()>("CloseNotification", &(id,)).await;
        assert!(again.is_err());
    });

    // Switched off, and on again.
    host.set("notifications = false");
    let refused = notify_send(&session, &["Never"]).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("no notifications"));
    host.set("notifications = true");

    // What the agent brought goes with it.
    notify_send(&session, &["Last"]).output().unwrap();
    let last = host.notes().wait_for("Last").id;
    agent.0.kill().unwrap();
    host.notes().wait_for_closed(last);
    wait_until("nobody serves in the guest", || !serves(&session));
    let _agent = session.agent(&host.socket());
    wait_until("the agent serves again", || serves(&session));
    notify_send(&session, &["Again"]).output().unwrap();
    let again = host.notes().wait_for("Again").id;
    host.desk.cli(&["stop", "--force", VM]).ok();
    host.notes().wait_for_closed(again);
    assert!(host.notes().all().iter().all(|note| !note.summary.contains("Never")));
}

#[test]
fn the_agent_takes_no_name_from_a_service_of_the_guest_and_follows_it() {
    let Some(host) = Host::new() else { return };
    let session = GuestSession::new(&host.token());
    let own = Notes::serve(session.folder.path());
    let _agent = session.agent(&host.socket());
    host.wait_for_agents(1);
    notify_send(&session, &["Stays here"]).output().unwrap();
    own.wait_for("Stays here");
    drop(own);
    wait_until("the agent serves", || serves(&session));
    notify_send(&session, &["Goes out"]).output().unwrap();
    host.notes().wait_for("Goes out");
    assert_eq!(host.notes().all().len(), 1);
}

#[test]
fn a_desktop_without_a_notification_service_is_said_and_one_that_comes_is_used() {
    let Some(mut host) = Host::new() else { return };
    host.notes = None;
    let session = GuestSession::new(&host.token());
    let _agent = session.agent(&host.socket());
    wait_until("the agent serves", || serves(&session));
    let shown = notify_send(&session, &["Lost"]).output().unwrap();
    assert!(!shown.status.success() && said(&shown).contains("shows no notifications"));
    host.notes = Some(Notes::serve(&host.desk.path("run")));
    notify_send(&session, &["Found"]).output().unwrap();
    let found = host.notes().wait_for("Found").id;
    // Another service takes its place: nothing of the old one's is believed to be shown.
    host.notes = None;
    host.notes = Some(Notes::serve(&host.desk.path("run")));
    wait_until("the new service shows", || {
        notify_send(&session, &["New"]).output().unwrap().status.success()
    });
    host.notes().wait_for("New");
    assert!(!host.notes().closed().contains(&found));
}

#[test]
fn a_url_of_the_guest_opens_on_the_host_as_the_policy_says() {
    let Some(host) = Host::new() else { return };
    let session = GuestSession::new(&host.token());
    let open = |url: &str| session.agent_command(&["open-url", url]).output().unwrap();
    let nobody = open("https://example.org/");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("no agent"), "{}", said(&nobody));
    let _agent = session.agent(&host.socket());
    wait_until("the agent serves", || serves(&session));

    host.set("open-url = \"allow\"");
    let opened = open("https://example.org/a b?c=\"d\"");
    assert_eq!(opened.status.code(), Some(0), "{}", said(&opened));
    wait_until("the browser has it", || host.opened().ends_with('|'));
    assert_eq!(host.opened(), "https://example.org/a%20b?c=%22d%22|");

    host.set("open-url = \"off\"");
    let refused = open("https://example.org/off");
    assert_eq!(refused.status.code(), Some(3));
    assert!(said(&refused).contains("the host refuses it"), "{}", said(&refused));

    // The person is asked, and sees where it leads.
    host.set("open-url = \"ask\"");
    host.notes().answer(Some("deny"));
    assert_eq!(open("https://denied.example/").status.code(), Some(3));
    let note = host.notes().wait_for("open a link");
    assert!(note.summary.starts_with("vm: ") && note.body.contains("denied.example"), "{note:?}");
    host.notes().answer(Some("allow"));
    assert_eq!(open("https://allowed.example/").status.code(), Some(0));
    wait_until("the browser has it", || host.opened().contains("allowed.example"));
    assert!(!host.opened().contains("denied") && !host.opened().contains("off"));

    let long = format!("https://example.org/{}", "x".repeat(9000));
    assert_eq!(open(&long).status.code(), Some(1));
}

/// An agent that says what it likes.
async fn hostile(host: &Host, role: Role) -> (HostClient<Channel>, Gone) {
    let mut stream = Address::Unix(host.socket()).connect().await.unwrap();
    let proof = host.token().proof(role);
    introduce(&mut stream, &Hello { role, direction: Direction::Calls, proof }).await.unwrap();
    let (channel, gone) = channel(stream).await.unwrap();
    let mut client = HostClient::new(channel);
    let user = if role == Role::System { String::new() } else { "mallory".to_owned() };
    let ready = ReadyRequest { protocol: proto::PROTOCOL, user, ..ReadyRequest::default() };
    client.ready(ready).await.unwrap();
    (client, gone)
}

#[test]
fn a_hostile_guest_shows_nothing_that_is_not_checked_and_floods_nobody() {
    let Some(host) = Host::new() else { return };
    host.set("open-url = \"allow\"");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut system, _kept) = hostile(&host, Role::System).await;
        let refusal = system.notify(Notification { id: 1, ..Notification::default() }).await;
        assert_eq!(refusal.unwrap_err().code(), Code::FailedPrecondition);

        let role = Role::User(1000);
        let (mut guest, _gone) = hostile(&host, role).await;
        let bad_code = |status: tonic::Status| {
            matches!(
                status.code(),
                Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange
            )
        };
        let bomb = {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 20_000, 20_000);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.set_depth(png::BitDepth::One);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&vec![0; 2500 * 20_000]).unwrap();
            drop(writer);
            bytes
        };
        let good = Notification { id: 1, summary: "x".into(), ..Notification::default() };
        for bad in [
            Notification { summary: "\u{1b}]0;owned\u{7}".into(), ..good.clone() },
            Notification { body: "a\u{202e}b".into(), ..good.clone() },
            Notification { summary: "x".repeat(1 << 20), ..good.clone() },
            Notification { icon: bomb, ..good.clone() },
            Notification { icon: vec![0x89; 3 << 20], ..good.clone() },
            Notification { actions: vec![NotificationAction::default(); 100_000], ..good.clone() },
        ] {
            assert!(bad_code(guest.notify(bad).await.unwrap_err()));
        }
        let huge = Notification { body: "x".repeat(5 << 20), ..good.clone() };
        assert!(guest.notify(huge).await.is_err());
        assert!(host.notes().all().is_empty());

        // A flood, over many calls at once.
        let mut calls = tokio::task::JoinSet::new();
        for task in 0..10_u32 {
            let mut guest = guest.clone();
            calls.spawn(async move {
                let mut shown = 0;
                for id in 0..10_000 {
                    let id = task * 10_000 + id + 1;
                    let notification =
                        Notification { id, summary: "flood".into(), ..Notification::default() };
                    shown += usize::from(guest.notify(notification).await.is_ok());
                }
                shown
            });
        }
        let since = std::time::Instant::now();
        let shown: usize = calls.join_all().await.into_iter().sum();
        // Ten in ten seconds and no more, however long it took.
        let most = 10 * (since.elapsed().as_secs() as usize / 10 + 1);
        assert!(shown <= most, "{shown} of {most}");
        let notes = host.notes().all();
        assert!(notes.iter().any(|note| note.summary.contains("held back")), "{notes:?}");
        assert!(notes.iter().filter(|note| note.summary.contains("flood")).count() == shown);
        for id in 0..1000 {
            guest.close_notification(CloseNotificationRequest { id }).await.unwrap();
        }

        for url in [
            "file:///etc/passwd",
            "javascript:alert(1)",
            "--manual",
            "mailto:a@b.example?attach=/etc/passwd",
            "https://bank.example@evil.example/",
        ] {
            let request = OpenUrlRequest { url: url.to_owned() };
            assert_eq!(guest.open_url(request).await.unwrap_err().code(), Code::InvalidArgument);
        }
        let request = OpenUrlRequest { url: "https://example.org/".into() };
        assert_eq!(guest.open_url(request).await.unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(host.opened(), "");
    });
    // The daemon has kept its log short, and serves on.
    let log = host.desk.path("home/.local/state/macrohard/daemon.log");
    let length = std::fs::metadata(&log).unwrap().len();
    assert!(length < 100_000, "the log has {length} bytes");
    host.desk.cli(&["status", VM]).ok();
}
