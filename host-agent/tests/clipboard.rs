//! Copy on one desktop, paste on the other: the host's and the guest's are X servers of their own, programs
//! on both are xclip. The VM runs a tiny guest; its session's agent is the real one, a process here.

#[path = "support/session.rs"]
mod session;
mod support;

use agent_link::{Address, Direction, Hello, Role, channel, introduce, serve};
use clipboard::{Boxed, Content, FetchError, Format, Offer, Selection, Source};
use proto::stand_in::guest_server::GuestServer;
use proto::v1::host_client::HostClient;
use proto::v1::{self, Feature, ReadyRequest};
use session::{Notes, bus, there};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::displays::{Two, displays};
use support::{kill, kvm, wait_until};
use tokio::runtime::Runtime;
use tonic::Code;

const TEXT: &str = "UTF8_STRING";

fn here() -> bool {
    kvm() && displays()
}

/// Bytes that text may have.
fn letters(count: usize) -> Vec<u8> {
    (0..count).map(|n| b'a' + u8::try_from(n * 7 % 26).unwrap()).collect()
}

/// A picture of one pixel by its header; what follows is not looked at on the way.
fn picture(bytes: usize) -> Vec<u8> {
    let mut picture = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0".to_vec();
    picture.resize(bytes, 7);
    picture
}

#[test]
fn what_is_copied_on_either_side_is_pasted_on_the_other() {
    if !here() {
        return;
    }
    let two = Two::with_agent();
    let _first = two.host.copy(TEXT, "Grüße vom Wirt".as_bytes());
    two.guest.wait_for(TEXT, "Grüße vom Wirt".as_bytes());
    let _second = two.guest.copy(TEXT, "and back".as_bytes());
    two.host.wait_for(TEXT, b"and back");

    let html = "<b>fat</b> ü".as_bytes();
    let _third = two.host.copy("text/html", html);
    two.guest.wait_for("text/html", html);
    let png = picture(3 << 20);
    let _fourth = two.guest.copy("image/png", &png);
    two.host.wait_for("image/png", &png);
    // Each side says what there is, and no more.
    let targets = two.host.targets();
    assert!(targets.contains("image/png") && !targets.contains(TEXT), "{targets}");

    let full = letters(1 << 20);
    for (from, to) in [(&two.host, &two.guest), (&two.guest, &two.host)] {
        let _owner = from.copy(TEXT, &full);
        to.wait_for(TEXT, &full);
        let more = letters((1 << 20) + 1);
        let _owner = from.copy(TEXT, &more);
        wait_until("the paste of too much fails", || {
            to.paste(TEXT).is_none_or(|got| got.is_empty())
        });
    }
    // Text that is not.
    let _bad = two.guest.copy(TEXT, b"\xff\xfe\xfd");
    wait_until("the paste of no text fails", || {
        two.host.paste(TEXT).is_none_or(|got| got.is_empty())
    });

    let log = two.log();
    for line in [
        "to-guest \"vm\" text 16 bytes: done",
        "to-host \"vm\" text 8 bytes: done",
        "to-host \"vm\" image 3145728 bytes: done",
        "too large",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(!log.contains("Wirt") && !log.contains("fat"), "{log}");
}

#[test]
fn the_policy_decides_which_way_and_counts_at_once() {
    if !here() {
        return;
    }
    let two = Two::with_agent();
    let _host = two.host.copy(TEXT, b"of the host");
    two.guest.wait_for(TEXT, b"of the host");
    // Off: what was offered is taken back.
    two.set(&["--policy", "off"]);
    two.guest.wait_for_nothing();
    let _guest = two.guest.copy(TEXT, b"of the guest");
    two.a_while();
    assert_eq!(two.host.paste(TEXT).as_deref(), Some(&b"of the host"[..]));
    // To the host: what the guest has takes the host's place only when it is copied.
    two.set(&["--policy", "to-host"]);
    two.a_while();
    assert_eq!(two.host.paste(TEXT).as_deref(), Some(&b"of the host"[..]));
    let _guest = two.guest.copy(TEXT, b"of the guest again");
    two.host.wait_for(TEXT, b"of the guest again");
    let _host = two.host.copy(TEXT, b"not for the guest");
    two.a_while();
    assert_eq!(two.guest.paste(TEXT).as_deref(), Some(&b"of the guest again"[..]));
    // To the guest.
    two.set(&["--policy", "to-guest"]);
    let _host = two.host.copy(TEXT, b"for the guest");
    two.guest.wait_for(TEXT, b"for the guest");
    let _guest = two.guest.copy(TEXT, b"not for the host");
    two.a_while();
    assert_eq!(two.host.paste(TEXT).as_deref(), Some(&b"for the guest"[..]));

    // Formats, and the selection of the mouse.
    two.set(&["--policy", "both", "--formats", "html"]);
    let _host = two.host.copy("text/html", b"<i>");
    two.guest.wait_for("text/html", b"<i>");
    let _host = two.host.copy(TEXT, b"plain");
    two.guest.wait_for_nothing();
    two.set(&["--formats", "text,image"]);
    two.guest.wait_for(TEXT, b"plain");
    let mouse = |text: &[u8]| two.host.copy_to("primary", TEXT, text);
    let _mouse = support::displays::Owner(mouse(b"selected"));
    two.a_while();
    assert_ne!(two.guest.paste_from("primary", TEXT).as_deref(), Some(&b"selected"[..]));
    two.set(&["--primary", "on"]);
    wait_until("the mouse's selection", || {
        two.guest.paste_from("primary", TEXT).as_deref() == Some(b"selected")
    });

    let json = two.desk.cli(&["clipboard", "vm", "--json"]).ok().json();
    assert_eq!(json["policy"], "both");
    assert_eq!(json["formats"], serde_json::json!(["text", "image"]));
    assert_eq!(json["primary"], true);
    assert_eq!(json["desktop"], format!("X11 {}", two.host.name));
    let shown = two.desk.cli(&["clipboard", "vm"]).ok().out;
    assert!(shown.contains("formats  text, image"), "{shown}");
    two.desk.cli(&["clipboard", "vm", "--policy", "maybe"]).refused(2, &["to-guest"]);
    two.desk.cli(&["clipboard", "none"]).refused(1, &["there is no VM"]);
    let definition = std::fs::read_to_string(two.desk.definition("vm")).unwrap();
    assert!(definition.contains("primary = true"), "{definition}");
}

#[test]
fn files_of_a_share_are_named_as_the_host_names_them_and_no_others_are() {
    if !here() {
        return;
    }
    let two = Two::with_agent();
    let (home, shared) = (two.desk.path("home"), two.desk.path("a folder"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("a b"), "content").unwrap();
    std::fs::write(two.desk.path("secret"), "").unwrap();
    std::os::unix::fs::symlink("../secret", shared.join("out")).unwrap();
    two.desk.cli(&["share", "add", "vm", shared.to_str().unwrap(), "--tag", "docs"]).ok();
    let list = "text/uri-list";
    let of_guest = |path: &str| format!("file://{}/Host/{path}\r\n", home.display());
    let _owner = two.guest.copy(list, of_guest("docs/a%20b").as_bytes());
    let there = shared.canonicalize().unwrap().display().to_string().replace(' ', "%20");
    two.host.wait_for(list, format!("file://{there}/a%20b\r\n").as_bytes());
    let cut = format!("cut\nfile://{}/Host/docs/a%20b", home.display());
    let _owner = two.guest.copy("x-special/gnome-copied-files", cut.as_bytes());
    let cut = format!("cut\nfile://{there}/a%20b");
    two.host.wait_for("x-special/gnome-copied-files", cut.as_bytes());
    for path in ["docs/out", "docs/missing", "other/a%20b", "docs/../../secret"] {
        let _owner = two.guest.copy(list, of_guest(path).as_bytes());
        wait_until("the offer is there and the paste fails", || {
            two.host.targets().contains(list)
                && two.host.paste(list).is_none_or(|got| got.is_empty())
        });
    }
    // To the guest: it has no agent that could mount what is shared, so that it gets no name of it either.
    let file = format!("file://{there}/a%20b\r\n");
    let _owner = two.host.copy(list, file.as_bytes());
    wait_until("the offer", || two.guest.targets().contains(list));
    assert!(two.guest.paste(list).is_none_or(|got| got.is_empty()));
    assert!(two.log().contains("to-host \"vm\" files"), "{}", two.log());
}

struct Fixed(&'static [u8]);

impl Source for Fixed {
    fn fetch(&self, _: Format) -> Boxed<Result<Content, FetchError>> {
        let bytes = self.0.to_vec();
        Box::pin(async move { Ok(Content::Bytes(bytes)) })
    }
}

#[test]
fn a_secret_goes_nowhere_and_takes_what_was_there_along() {
    if !here() {
        return;
    }
    let two = Two::with_agent();
    let runtime = Runtime::new().unwrap();
    for (from, to) in [(&two.host, &two.guest), (&two.guest, &two.host)] {
        let _owner = from.copy(TEXT, b"harmless");
        to.wait_for(TEXT, b"harmless");
        runtime.block_on(async {
            let (backend, _changes) = clipboard::x11::connect(Some(&from.name)).await.unwrap();
            let formats = [Format::Text].into();
            let offer = Offer { formats, secret: true, source: Arc::new(Fixed(b"geheim")) };
            backend.offer(Selection::Clipboard, offer).await.unwrap();
            assert_eq!(from.paste(TEXT).as_deref(), Some(&b"geheim"[..]));
            to.wait_for_nothing();
        });
    }
}

#[test]
fn nothing_stays_of_an_agent_a_daemon_or_a_vm_that_is_killed() {
    if !here() {
        return;
    }
    let mut two = Two::with_agent();
    let owner = two.guest.copy(TEXT, b"of the guest");
    two.host.wait_for(TEXT, b"of the guest");
    // Its program does not answer; then the agent is killed in the middle of the paste.
    owner.stop();
    let display = two.host.name.clone();
    let pasting = std::thread::spawn(move || {
        let mut command = Command::new("timeout");
        command.args(["60", "xclip", "-selection", "clipboard", "-o", "-t", TEXT]);
        let output = command.env("DISPLAY", display).stderr(Stdio::null()).output().unwrap();
        (output, Instant::now())
    });
    two.a_while();
    assert!(!pasting.is_finished());
    let killed = Instant::now();
    two.kill_agent();
    let (pasted, ended) = pasting.join().unwrap();
    assert!(pasted.stdout.is_empty(), "{pasted:?}");
    assert!(ended - killed < Duration::from_secs(2), "{:?}", ended - killed);
    two.host.wait_for_nothing();
    assert!(two.log().contains("text 0 bytes: failed"), "{}", two.log());

    // The agent comes back, and what its desktop has with it.
    drop(owner);
    let _owner = two.guest.copy(TEXT, b"still there");
    two.start_agent();
    two.host.wait_for(TEXT, b"still there");
    // So does the daemon.
    two.kill_daemon();
    two.host.wait_for_nothing();
    two.start_daemon();
    two.host.wait_for(TEXT, b"still there");
    let _host = two.host.copy(TEXT, b"new");
    two.guest.wait_for(TEXT, b"new");
    two.kill_daemon();
    two.guest.wait_for_nothing();
    two.start_daemon();
    two.guest.wait_for(TEXT, b"new");

    let _owner = two.guest.copy(TEXT, b"last words");
    two.host.wait_for(TEXT, b"last words");
    kill(two.desk.vm_pid("vm"));
    two.host.wait_for_nothing();
}

#[test]
fn asked_for_each_paste_nobody_is_a_no_and_a_person_may_say_yes() {
    if !here() {
        return;
    }
    if !there("dbus-daemon") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _bus = bus(folder.path());
    let mut two = Two::with_bus(Some(&format!("unix:path={}/bus", folder.path().display())));
    two.set(&["--policy", "ask"]);
    two.start_agent();
    let _host = two.host.copy(TEXT, b"of the host");
    wait_until("the offer", || two.guest.targets().contains(TEXT));
    assert!(two.guest.paste(TEXT).is_none_or(|got| got.is_empty()));
    assert!(two.log().contains("to-guest \"vm\" text 0 bytes: denied"), "{}", two.log());

    let notes = Notes::serve(folder.path());
    notes.answer(Some("allow"));
    // A word counts for a while for the same content; this is other content.
    let _host = two.host.copy(TEXT, b"of the host once more");
    two.guest.wait_for(TEXT, b"of the host once more");
    let asked = |notes: &Notes| {
        let note = notes.all().pop().unwrap();
        format!("{}|{}", note.summary, note.body)
    };
    let question = asked(&notes);
    assert!(question.starts_with("vm: ") && question.contains("copied on the host"), "{question}");
    let _guest = two.guest.copy(TEXT, b"of the guest");
    two.host.wait_for(TEXT, b"of the guest");
    assert!(asked(&notes).contains("copied in this VM"), "{}", asked(&notes));
}

#[test]
fn a_guest_that_lies_and_floods_gets_and_gives_nothing() {
    if !here() {
        return;
    }
    let two = Two::new();
    let runtime = Runtime::new().unwrap();
    let (socket, token) = (two.host_socket(), two.token());
    let role = Role::User(1000);
    let (mut host, _serving) = runtime.block_on(async {
        let connect = async |direction| {
            let mut stream = Address::Unix(socket.clone()).connect().await.unwrap();
            let hello = Hello { role, direction, proof: token.proof(role) };
            introduce(&mut stream, &hello).await.unwrap();
            stream
        };
        let serving = connect(Direction::Serves).await;
        let serving = tokio::spawn(serve(serving, GuestServer::new(support::LyingGuest)));
        let (channel, gone) = channel(connect(Direction::Calls).await).await.unwrap();
        let mut host = HostClient::new(channel);
        let features = vec![Feature::Clipboard.into()];
        let user = "eve".to_owned();
        let protocol = proto::PROTOCOL;
        let ready = ReadyRequest { protocol, features, user, ..ReadyRequest::default() };
        host.ready(ready).await.unwrap();
        (host, (serving, gone))
    });
    wait_until("the agent", || two.agents() == 1);
    wait_until("the desktop", || {
        two.desk.cli(&["clipboard", "vm"]).ok().out.contains(&two.host.name)
    });
    let offer = |sequence: u64| v1::ClipboardOffer {
        selection: 1,
        origin: vec![9; 16],
        sequence,
        formats: vec![1],
        ..Default::default()
    };
    let code = |result: Result<_, tonic::Status>| {
        result.map(|_: tonic::Response<_>| ()).err().map(|s| s.code())
    };

    // Garbage.
    for bad in [
        v1::ClipboardOffer { origin: vec![9; 100_000], ..offer(1) },
        v1::ClipboardOffer { formats: vec![1; 100_000], ..offer(1) },
        v1::ClipboardOffer { selection: 7, ..offer(1) },
        v1::ClipboardOffer { formats: vec![0], ..offer(1) },
    ] {
        let answer = runtime.block_on(host.offer_clipboard(bad));
        assert_eq!(code(answer), Some(Code::InvalidArgument));
    }
    // What the host has never offered, and what it offers in another format or to nobody.
    let _host = two.host.copy(TEXT, b"of the host");
    two.a_while();
    for (selection, origin, expected) in [
        (1, vec![9; 16], Code::NotFound),
        (1, vec![0; 16], Code::NotFound),
        (2, vec![9; 16], Code::NotFound),
        (1, vec![0; 3], Code::InvalidArgument),
        (0, vec![0; 16], Code::InvalidArgument),
    ] {
        let fetch = v1::ClipboardFetch { selection, origin, sequence: 1, format: 1 };
        let answer = runtime.block_on(host.fetch_clipboard(fetch));
        assert_eq!(answer.map(drop).unwrap_err().code(), expected);
    }
    // Lengths and content that are lies: a paste fails, or at least ends, and is empty.
    for sequence in 8..15 {
        let offered = runtime.block_on(host.offer_clipboard(offer(sequence)));
        assert!(offered.is_ok(), "{offered:?}");
        wait_until("the offer", || two.host.targets().contains(TEXT));
        two.a_while();
        let got = two.host.paste(TEXT);
        assert!(got.as_ref().is_none_or(|got| got.is_empty()), "{sequence}: {got:?}");
    }
    // Floods of offers and of requests are held back.
    let answers: Vec<_> = (100..400)
        .map(|sequence| code(runtime.block_on(host.offer_clipboard(offer(sequence)))))
        .collect();
    assert!(answers.contains(&Some(Code::ResourceExhausted)));
    let fetch = || v1::ClipboardFetch { selection: 1, origin: vec![1; 16], sequence: 1, format: 1 };
    let answers: Vec<_> = (0..300)
        .map(|_| runtime.block_on(host.fetch_clipboard(fetch())).map(drop).unwrap_err().code())
        .collect();
    assert!(answers.contains(&Code::ResourceExhausted));

    // And the host's own clipboard goes on.
    let _host = two.host.copy(TEXT, b"mine");
    two.host.wait_for(TEXT, b"mine");
    let log = std::fs::read_to_string(two.desk.path("daemon.log")).unwrap();
    assert!(log.matches("is refused").count() < 50, "{log}");
    assert!(log.contains("an offer that breaks a limit is refused"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
}
