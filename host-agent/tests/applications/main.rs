//! Applications of a guest in the host's menu. The VM runs a tiny guest; its session is the test's, so that
//! it can also tell what no agent would.

mod menu;
#[path = "../support/notes.rs"]
mod notes;
mod session;
#[path = "../support/mod.rs"]
mod support;

use agent_link::Role;
use menu::{Display, entries, entry, has, icons, launchers, validate};
use notes::{Notes, bus, there};
use proto::v1::icon_reply::Icon;
use proto::v1::launch_target::Target;
use proto::v1::{Action, Application, LaunchRequest, LaunchTarget, Text, Translation};
use session::{Fake, Session};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use support::{Desk, kill, kvm, wait_until};

const ANN: Role = Role::User(1000);
const SVG: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\"><path d=\"M0 0h9v9z\"/></svg>";

fn text(plain: &str) -> Option<Text> {
    Some(Text { plain: plain.into(), translations: Vec::new() })
}

fn named(id: &str, name: &str) -> Application {
    Application { id: id.into(), name: text(name), ..Application::default() }
}

fn editor() -> Application {
    let german = Translation { language: "de".into(), text: "Texteditor; \\n".into() };
    Application {
        name: Some(Text { plain: "Text Editor".into(), translations: vec![german] }),
        comment: text("Edit 100% of \"text\" files; $HOME"),
        generic_name: text("Editor"),
        keywords: vec!["notes; plain".into(), "write".into()],
        categories: ["GNOME", "GTK", "Utility", "TextEditor", "Shell", "X-Own", "Made-Up"]
            .map(str::to_owned)
            .into(),
        mime_types: vec!["text/plain".into(), "inode/directory".into(), "foo/bar".into()],
        startup_class: "org.gnome.TextEditor".into(),
        actions: vec![Action { id: "new-window".into(), name: text("New Window") }],
        startup_notify: true,
        opens: true,
        icon: 1,
        ..named("org.gnome.TextEditor", "")
    }
}

fn png(size: u32) -> Icon {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size, size);
    encoder.set_color(png::ColorType::Rgba);
    let pixels = vec![7; (size * size * 4) as usize];
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    Icon::Png(file)
}

fn launched(fake: &Fake) -> Vec<LaunchRequest> {
    std::mem::take(&mut fake.launched.lock().unwrap())
}

#[test]
fn what_a_guest_tells_stands_in_the_menu_and_starts_from_there() {
    if !kvm() || !has("desktop-file-validate", "desktop-file-utils") {
        return;
    }
    let desk = Desk::new();
    desk.start("Büro 1");
    let said = desk.cli(&["apps", "Büro 1"]).ok();
    assert!(said.out.is_empty() && said.err.contains("no applications"), "{said:?}");

    let fake = Fake::default();
    fake.icons.lock().unwrap().extend([
        ("org.gnome.TextEditor".to_owned(), png(256)),
        ("drawn".to_owned(), Icon::Svg(SVG.into())),
    ]);
    let mut ann = Session::connect(&desk, ANN, fake.clone());
    let drawn = Application { icon: 5, ..named("drawn", "Drawn") };
    let hidden = Application {
        hidden: true,
        opens: true,
        mime_types: vec!["image/png".into()],
        ..named("viewer", "Viewer")
    };
    let all = vec![editor(), drawn.clone(), named("-odd_id.x", "Odd"), hidden.clone()];
    ann.tell(all.clone()).unwrap();
    let names = ["-odd_5fid_2ex", "drawn", "org_2egnome_2eTextEditor"]
        .map(|id| format!("org.macrohard.B_c3_bcro_201.{id}.desktop"));
    wait_until("launchers", || launchers(&desk) == names);
    let prefix = "org.macrohard.B_c3_bcro_201";
    wait_until("icons", || {
        icons(&desk)
            == [
                format!("128x128/apps/{prefix}.org_2egnome_2eTextEditor.png"),
                format!("scalable/apps/{prefix}.drawn.svg"),
            ]
    });
    let path = entry(&desk, "B_c3_bcro_201.org_2egnome_2eTextEditor");
    let own = format!("\nIcon={prefix}.org_2egnome_2eTextEditor\n");
    let content = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    wait_until("the launcher names its icon", || content(&path).contains(&own));
    assert!(content(&path).contains("\nName[de]=Texteditor; \\\\n (Büro 1)\n"));
    validate(&desk);

    // What is known of them.
    let said = desk.cli(&["apps", "Büro 1"]).ok();
    assert!(said.err.is_empty() && !said.out.contains("viewer"), "{said:?}");
    assert!(said.out.contains("org.gnome.TextEditor  Text Editor"), "{said:?}");
    let json = desk.cli(&["apps", "Büro 1", "--json"]).ok().json();
    assert_eq!(json["remembered"], false);
    assert_eq!(json["applications"][2]["names"]["de"], "Texteditor; \\n");

    // By command.
    let target = |target| LaunchTarget { target: Some(target) };
    let request = |id: &str, action: &str, targets| LaunchRequest {
        application: id.into(),
        action: action.into(),
        targets,
    };
    let said =
        desk.cli(&["launch", "Büro 1", "org.gnome.TextEditor", "https://example.org/ü"]).ok();
    assert!(said.err.contains("launching org.gnome.TextEditor"), "{said:?}");
    let url = target(Target::Url("https://example.org/%C3%BC".into()));
    assert_eq!(launched(&fake), [request("org.gnome.TextEditor", "", vec![url])]);
    desk.cli(&["launch", "Büro 1", "drawn", "https://x"]).refused(2, &["opens no files"]);
    desk.cli(&["launch", "Büro 1", "a/b"]).refused(2, &["id of an application"]);
    let said = desk.cli(&["launch", "Büro 1", "gone"]);
    let said = said.refused(1, &["the guest answered: there is no application \"gone\"", "apps"]);
    assert!(!said.err.contains('\u{1b}'), "{said:?}");
    desk.cli(&["launch", "other", "drawn"]).refused(1, &["there is no VM"]);

    // By every Exec line, as a desktop reads it.
    if has("gio", "libglib2.0-bin") {
        for (name, expected) in [
            ("drawn", request("drawn", "", vec![])),
            ("-odd_5fid_2ex", request("-odd_id.x", "", vec![])),
        ] {
            let path = entry(&desk, &format!("B_c3_bcro_201.{name}"));
            assert!(desk.command("gio").arg("launch").arg(path).status().unwrap().success());
            wait_until("the launcher starts it", || !fake.launched.lock().unwrap().is_empty());
            assert_eq!(launched(&fake), [expected]);
        }
    }

    // An application that is gone takes launcher and icon along.
    ann.tell(vec![editor(), hidden]).unwrap();
    wait_until("launchers are gone", || launchers(&desk) == names[2..]);
    wait_until("icons are gone", || icons(&desk).len() == 1);
    // One that is told again as it was changes nothing.
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let asked = fake.asked.lock().unwrap().len();
    ann.tell(all).unwrap();
    wait_until("launchers are back", || launchers(&desk) == names);
    wait_until("icons are back", || icons(&desk).len() == 2);
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
    let again = fake.asked.lock().unwrap()[asked..].to_vec();
    assert_eq!(again, ["drawn"]);

    // The VM goes, and everything of it.
    kill(desk.vm_pid("Büro 1"));
    desk.wait_for_state("Büro 1", "crashed");
    assert_eq!(launchers(&desk), names);
    desk.cli(&["delete", "--yes", "Büro 1"]).ok();
    wait_until("launchers are gone with their VM", || launchers(&desk).is_empty());
    wait_until("icons are gone with their VM", || icons(&desk).is_empty());
}

#[test]
fn a_menu_entry_starts_its_application_through_the_desktop_s_launcher() {
    if !kvm() || !has("gtk-launch", "libgtk-3-bin") || !has("Xvfb", "xvfb") {
        return;
    }
    let display = Display::new();
    let desk = Desk::new();
    desk.start("vm");
    let fake = Fake::default();
    let mut ann = Session::connect(&desk, ANN, fake.clone());
    ann.tell(vec![editor()]).unwrap();
    let name = "vm.org_2egnome_2eTextEditor";
    wait_until("a launcher", || entry(&desk, name).exists());
    // GTK wants a display, and shows nothing on it.
    let mut gtk = desk.command("gtk-launch");
    gtk.env("DISPLAY", &display.name)
        .arg(format!("org.macrohard.{name}"))
        .arg("https://example.org/");
    let output = gtk.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    wait_until("the application starts", || !fake.launched.lock().unwrap().is_empty());
    let launched = launched(&fake);
    assert_eq!(launched[0].application, "org.gnome.TextEditor");
    let url = Target::Url("https://example.org/".into());
    assert_eq!(launched[0].targets, [LaunchTarget { target: Some(url) }]);
}

#[test]
fn a_failure_behind_a_menu_entry_is_shown_on_the_desktop() {
    if !there("dbus-daemon") {
        return;
    }
    let desk = Desk::new();
    let folder = tempfile::tempdir().unwrap();
    let _bus = bus(folder.path());
    let address = format!("unix:path={}/bus", folder.path().display());
    let notes = Notes::serve(folder.path());
    let launch = |menu: &[&str]| {
        let arguments = [&["launch"], menu, &["--", "a <b>", "x"]].concat();
        let mut client = desk.prepared(&arguments);
        client.env("DBUS_SESSION_BUS_ADDRESS", &address).output().unwrap()
    };
    // No VM may be called so.
    assert_eq!(launch(&[]).status.code(), Some(2));
    assert!(notes.all().is_empty());
    assert_eq!(launch(&["--menu"]).status.code(), Some(2));
    let [note] = &notes.all()[..] else { panic!("{:?}", notes.all()) };
    assert_eq!(note.summary, "x of VM \"a <b>\" cannot be started");
    assert!(note.body.contains("&lt;b&gt;") && !note.body.contains('<'), "{note:?}");
    // Without a desktop it is told where it always is.
    let said = desk.cli(&["launch", "--menu", "--", "a", "x"]);
    said.refused(1, &["no notification could be shown", "there is no VM"]);
}

#[test]
fn launchers_follow_the_definition_at_once() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let mut ann = Session::connect(&desk, ANN, Fake::default());
    ann.tell(vec![editor()]).unwrap();
    let path = entry(&desk, "vm.org_2egnome_2eTextEditor");
    wait_until("a launcher", || path.exists());
    let contains =
        |words: &str| std::fs::read_to_string(&path).is_ok_and(|text| text.contains(words));

    let definition = desk.definition("vm");
    let text = std::fs::read_to_string(&definition).unwrap();
    std::fs::write(&definition, format!("# mine\n{text}")).unwrap();
    let said = desk.cli(&["integration", "vm"]).ok();
    let expected = "open-url       ask\nnotifications  on\nlaunchers      on\nopen-with      off\nbus-control    on\n";
    assert_eq!(said.out, expected);
    let json = desk.cli(&["integration", "vm", "--open-with", "on", "--open-url", "off", "--json"]);
    let json = json.ok().json();
    assert_eq!((&json["open-with"], &json["open-url"]), (&true.into(), &"off".into()));
    wait_until("types are offered", || contains("\nMimeType=text/plain;\n"));
    if has("update-desktop-database", "desktop-file-utils") {
        let table = entries(&desk).join("mimeinfo.cache");
        let named = |there| {
            let text = std::fs::read_to_string(&table).unwrap_or_default();
            text.contains("text/plain=org.macrohard.vm.org_2egnome_2eTextEditor.desktop;") == there
        };
        wait_until("the table of types has it", || named(true));
        desk.cli(&["integration", "vm", "--open-with", "off"]).ok();
        wait_until("the table of types has it no more", || named(false));
    }
    desk.cli(&["integration", "vm", "--launchers", "off"]).ok();
    wait_until("the launcher is gone", || !path.exists());
    assert_eq!(
        desk.cli(&["apps", "vm", "--json"]).ok().json()["applications"][0]["name"],
        "Text Editor"
    );
    desk.cli(&["integration", "vm", "--launchers", "on"]).ok();
    wait_until("the launcher is back", || path.exists());
    let text = std::fs::read_to_string(&definition).unwrap();
    assert!(text.starts_with("# mine\n") && text.contains("open-url = \"off\""), "{text}");
    desk.cli(&["integration", "vm", "--launchers", "maybe"]).refused(2, &["maybe"]);
    desk.cli(&["integration", "none", "--launchers", "on"]).refused(1, &["there is no VM"]);
}

#[test]
fn a_launch_starts_or_resumes_the_vm_and_tells_each_step() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let fake = Fake::default();
    let mut ann = Session::connect(&desk, ANN, fake.clone());
    ann.tell(vec![editor()]).unwrap();
    wait_until("a launcher", || !launchers(&desk).is_empty());

    desk.cli(&["pause", "vm"]).ok();
    let said = desk.cli(&["launch", "vm", "org.gnome.TextEditor", "--action", "new-window"]).ok();
    assert!(said.err.starts_with("resuming VM \"vm\"\n"), "{said:?}");
    assert_eq!(launched(&fake)[0].action, "new-window");

    // Stopped, it is remembered, by the next daemon as well.
    drop(ann);
    desk.cli(&["stop", "--force", "vm"]).ok();
    kill(desk.daemon_pid());
    let said = desk.cli(&["apps", "vm"]).ok();
    assert!(
        said.out.contains("org.gnome.TextEditor") && said.err.contains("last connected"),
        "{said:?}"
    );
    assert_eq!(desk.cli(&["apps", "vm", "--json"]).ok().json()["remembered"], true);
    assert_eq!(launchers(&desk).len(), 1);

    // Nobody logs in.
    let said = desk.cli(&["launch", "vm", "org.gnome.TextEditor", "--wait", "1"]);
    let said = said.refused(1, &["no agent of a session of VM \"vm\" is connected", "--wait"]);
    let steps = "starting VM \"vm\"\nwaiting for the guest's desktop session\n";
    assert!(said.err.starts_with(steps), "{said:?}");
    assert_eq!(desk.state("vm"), "running");
    desk.cli(&["stop", "--force", "vm"]).ok();

    // Somebody does, after a while. A client that goes away does not stop the start.
    let mut client = desk.prepared(&["launch", "vm", "org.gnome.TextEditor"]);
    let mut client = client.stderr(Stdio::piped()).spawn().unwrap();
    let mut steps = BufReader::new(client.stderr.take().unwrap());
    let mut line = String::new();
    steps.read_line(&mut line).unwrap();
    assert_eq!(line, "starting VM \"vm\"\n");
    client.kill().unwrap();
    client.wait().unwrap();
    desk.wait_for_state("vm", "running");
    let mut client = desk.prepared(&["launch", "vm", "org.gnome.TextEditor"]);
    let mut client = client.stderr(Stdio::piped()).spawn().unwrap();
    let mut steps = BufReader::new(client.stderr.take().unwrap());
    line.clear();
    steps.read_line(&mut line).unwrap();
    assert_eq!(line, "waiting for the guest's desktop session\n");
    let _service = Session::connect(&desk, Role::User(33), Fake::default());
    let _ann = Session::connect(&desk, ANN, fake.clone());
    let mut rest = String::new();
    steps.read_to_string(&mut rest).unwrap();
    assert!(client.wait().unwrap().success(), "{rest}");
    wait_until("it is launched", || !fake.launched.lock().unwrap().is_empty());

    // A VM that ends is not waited for.
    drop(_ann);
    let vm = desk.vm_pid("vm");
    let mut client = desk.prepared(&["launch", "vm", "org.gnome.TextEditor"]);
    let client = client.stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill(vm);
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has ended") || said.contains("is crashed"), "{said}");
}

#[test]
fn what_vanished_while_no_daemon_ran_is_swept_away_by_the_next() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let fake = Fake::default();
    fake.icons.lock().unwrap().insert("org.gnome.TextEditor".into(), png(64));
    let mut ann = Session::connect(&desk, ANN, fake);
    ann.tell(vec![editor()]).unwrap();
    wait_until("an icon", || {
        icons(&desk) == ["64x64/apps/org.macrohard.vm.org_2egnome_2eTextEditor.png"]
    });
    desk.cli(&["stop", "--force", "vm"]).ok();
    kill(desk.daemon_pid());
    let mine = entry(&desk, "vm.mine");
    std::fs::write(&mine, "[Desktop Entry]\nType=Application\nName=Mine\nExec=true\n").unwrap();
    let launcher = entry(&desk, "vm.org_2egnome_2eTextEditor");
    // A launcher that was lost comes back.
    std::fs::remove_file(&launcher).unwrap();
    desk.cli(&["list"]).ok();
    wait_until("the launcher is back", || launcher.exists());
    kill(desk.daemon_pid());
    std::fs::remove_file(desk.definition("vm")).unwrap();
    desk.cli(&["list"]).ok();
    wait_until("the launcher is gone", || !launcher.exists());
    wait_until("the icon is gone", || icons(&desk).is_empty());
    assert!(mine.exists());
}

#[test]
fn a_hostile_guest_gets_nothing_into_the_menu_but_what_is_allowed() {
    if !kvm() {
        return;
    }
    let desk = Desk::new();
    desk.start("vm");
    let fake = Fake::default();
    // Larger than any message may be, more than any picture, a bomb, one that acts, sizes no icon has.
    let bomb: String = (1..12)
        .map(|n| format!("<g id=\"g{n}\">{}</g>", format!("<use href=\"#g{}\"/>", n - 1).repeat(9)))
        .collect();
    let inside = |inside: &str| Icon::Svg(SVG.replace("<path", &format!("{inside}<path")).into());
    fake.icons.lock().unwrap().extend([
        ("huge".to_owned(), Icon::Png(vec![0; 100 << 20])),
        ("large".to_owned(), png(2000)),
        ("bomb".to_owned(), inside(&bomb)),
        ("script".to_owned(), inside("<script>alert(1)</script>")),
        ("file".to_owned(), inside("<image href=\"file:///etc/passwd\"/>")),
        ("text".to_owned(), Icon::Png(b"not a picture".to_vec())),
        ("good".to_owned(), png(100)),
    ]);
    let mut ann = Session::connect(&desk, ANN, fake.clone());

    // Lists that are none.
    let million = (0..1_000_000).map(|_| Application::default()).collect();
    assert!(ann.tell_list(vec![0; 32], million).is_err());
    let many: Vec<_> = (0..2049).map(|n| named(&format!("{n:05}"), "x")).collect();
    assert!(ann.tell(many).is_err());
    let wrong = ann.tell_list(vec![0; 32], vec![named("a", "A")]).unwrap_err();
    assert_eq!(wrong.code(), tonic::Code::InvalidArgument);
    let twice = ann.tell(vec![named("a", "A"), named("a", "B")]).unwrap_err();
    assert!(twice.message().contains("does not come after"), "{twice}");
    assert!(launchers(&desk).is_empty());

    // Of agents that have none.
    for role in [Role::System, Role::User(33), Role::User(65_534)] {
        let refused = Session::connect(&desk, role, Fake::default()).tell(vec![named("a", "A")]);
        assert_eq!(refused.unwrap_err().code(), tonic::Code::FailedPrecondition, "{role}");
    }

    // A new line in every field, each in an application of its own.
    let line = "x\nExec=touch /tmp/owned\n[Desktop Action y]";
    let translated = || {
        let bad = Translation { language: format!("de]={line}"), text: "x".into() };
        Some(Text { plain: "x".into(), translations: vec![bad] })
    };
    let bad = [
        named(line, "x"),
        named("b01", line),
        Application { name: translated(), ..named("b02", "") },
        Application { comment: text(line), ..named("b03", "x") },
        Application { generic_name: text(line), ..named("b04", "x") },
        Application { keywords: vec![line.into()], ..named("b05", "x") },
        Application { categories: vec![line.into()], ..named("b06", "x") },
        Application { mime_types: vec![format!("text/{line}")], ..named("b07", "x") },
        Application { startup_class: line.into(), ..named("b08", "x") },
        Application { actions: vec![Action { id: line.into(), name: None }], ..named("b09", "x") },
        Application {
            actions: vec![Action { id: "a".into(), name: text(line) }],
            ..named("b10", "x")
        },
    ];
    let icons_of = ["huge", "large", "bomb", "script", "file", "text", "silent", "none", "good"];
    let with_icons =
        icons_of.map(|id| Application { icon: 1, ..named(id, "%f $(id) `id` \" ' \\ ;") });
    ann.tell([&bad[..], &with_icons].concat()).unwrap();
    wait_until("launchers of those that keep the limits", || {
        launchers(&desk).len() == icons_of.len()
    });
    wait_until("the one good icon", || icons(&desk) == ["96x96/apps/org.macrohard.vm.good.png"]);
    let good = entry(&desk, "vm.good");
    wait_until("it is named", || {
        std::fs::read_to_string(&good).unwrap().contains("\nIcon=org.macrohard.vm.good\n")
    });
    for name in launchers(&desk) {
        let text = std::fs::read_to_string(entries(&desk).join(name)).unwrap();
        assert!(!text.contains("touch") && text.matches("\nExec=").count() == 1, "{text}");
    }
    if has("desktop-file-validate", "desktop-file-utils") {
        validate(&desk);
    }

    // Lists over and over: the daemon refuses more, and answers as ever.
    let refused = (0..1000).filter(|n| {
        let told = ann.tell(vec![named(&format!("flood{n}"), "x")]);
        told.is_err_and(|status| status.code() == tonic::Code::ResourceExhausted)
    });
    assert!(refused.count() >= 800);
    desk.cli(&["launch", "vm", "good"]).ok();
    assert_eq!(launched(&fake).len(), 1);
    let log = std::fs::read_to_string(desk.path("home/.local/state/macrohard/daemon.log")).unwrap();
    assert_eq!(log.matches("come too fast").count(), 1);
    assert!(log.contains("left_out=11") && !log.contains("touch"), "{log}");
}
