//! The Wayland backend beside wl-clipboard, both ways, on a headless sway.

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clipboard::{
    Backend, ConnectError, Content, Display, FetchError, Format, Selection, connect_to, wayland,
};
use support::sway::Sway;
use support::{
    Changes, LIMIT, MIB, PNG, Xvfb, bytes, empty, fixed, long_text, next, offer, offered, skipped,
};
use tokio::time::timeout;

macro_rules! sway {
    () => {{
        if skipped(&["sway", "wl-copy", "wl-paste"]) {
            return;
        }
        Sway::start()
    }};
}

async fn connect(server: &Sway) -> (Arc<dyn Backend>, Changes) {
    Changes::of(wayland::connect(Some(server.socket.as_os_str())).await.unwrap())
}

#[tokio::test]
async fn the_present_state_comes_first_and_then_each_change() {
    let server = sway!();
    let first = server.copy(&[], b"one").await;
    while server.paste(&[]).await.is_none() {}
    let (backend, mut changes) = connect(&server).await;
    assert_eq!(backend.name(), format!("Wayland {}", server.socket.display()));
    let text = offered(Selection::Clipboard, &[Format::Text]);
    let mut state = [next(&mut changes).await, next(&mut changes).await];
    state.sort_by_key(|offered| offered.selection);
    assert_eq!(state, [text.clone(), offered(Selection::Primary, &[])]);

    let _primary = server.copy(&["--primary"], b"two").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Primary, &[Format::Text]));
    // wl-copy offers whatever is text as text, too.
    let html = ["--type", "text/html"];
    let both = offered(Selection::Clipboard, &[Format::Text, Format::Html]);
    let _second = server.copy(&html, b"<b>three</b>").await;
    assert_eq!(next(&mut changes).await, both);
    drop(first);
    // The same formats again are a change: the content is another.
    let mut third = server.copy(&html, b"<b>four</b>").await;
    assert_eq!(next(&mut changes).await, both);
    third.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[]));
}

#[tokio::test]
async fn every_format_is_fetched_from_wl_copy() {
    let server = sway!();
    let (backend, mut changes) = connect(&server).await;
    empty(&mut changes).await;
    let utf16: Vec<u8> = "\u{feff}<i>ü</i>".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let files =
        |cut| Content::Files { paths: vec![PathBuf::from("/home/a b"), PathBuf::from("/ü")], cut };
    let list = b"file:///home/a%20b\r\nhttps://x/\r\nfile:///%C3%BC\r\n";
    let copied = b"cut\nfile:///home/a%20b\nfile:///%C3%BC";
    let text = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    let cases: [(&str, Format, &[u8], Content); 6] = [
        ("text/plain", Format::Text, "grün €".as_bytes(), text("grün €")),
        ("text/html", Format::Html, "<i>ü</i>".as_bytes(), text("<i>ü</i>")),
        ("text/html", Format::Html, &utf16, text("<i>ü</i>")),
        ("image/png", Format::Png, PNG, Content::Bytes(PNG.to_vec())),
        ("text/uri-list", Format::Files, list, files(false)),
        ("x-special/gnome-copied-files", Format::Files, copied, files(true)),
    ];
    for (name, format, given, expected) in cases {
        let mut owner = server.copy(&["--type", name], given).await;
        assert!(next(&mut changes).await.formats.contains(&format), "{name}");
        let fetched = changes.fetch(&backend, Selection::Clipboard, format, 1000).await.unwrap();
        assert!(fetched == expected, "{name}: {fetched:?}");
        let other = changes.fetch(&backend, Selection::Primary, format, 1000).await;
        assert_eq!(other, Err(FetchError::Gone), "{name}");
        owner.kill().await.unwrap();
        assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[]));
    }
}

#[tokio::test]
async fn long_text_goes_both_ways_and_too_much_is_refused() {
    let server = sway!();
    let (backend, mut changes) = connect(&server).await;
    empty(&mut changes).await;
    let text = long_text(5 * MIB);
    let _owner = server.copy(&["--type", "text/plain"], &text).await;
    next(&mut changes).await;
    let fetch = |most| changes.fetch(&backend, Selection::Clipboard, Format::Text, most);
    let (one, two) = tokio::join!(fetch(5 * MIB), fetch(6 * MIB));
    assert!(one == Ok(Content::Bytes(text.clone())) && two == one);
    assert_eq!(fetch(5 * MIB - 1).await, Err(FetchError::Large(5 * MIB - 1)));
    assert_eq!(fetch(10).await, Err(FetchError::Large(10)));

    let ours: Vec<u8> = text.iter().rev().map(|byte| byte & 0x7f).collect();
    let source = bytes(&ours);
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await.unwrap();
    assert!(server.paste(&[]).await == Some(ours));
    assert_eq!(source.asked(), 1);
}

#[tokio::test]
async fn wl_paste_gets_every_format_that_is_offered() {
    let server = sway!();
    let (backend, mut changes) = connect(&server).await;
    empty(&mut changes).await;
    let names = async || {
        let names = String::from_utf8(server.paste(&["--list-types"]).await.unwrap()).unwrap();
        names.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let paste = async |name: &str| server.paste(&["--type", name]).await;

    let text = bytes("grün €");
    backend.offer(Selection::Clipboard, offer(&[Format::Text, Format::Html], &text)).await.unwrap();
    let listed = names().await;
    let mark = listed.last().unwrap();
    assert!(mark.starts_with("application/x-macrohard-offer;id="), "{listed:?}");
    let expected = ["UTF8_STRING", "text/plain;charset=utf-8", "text/plain", "text/html"];
    assert_eq!(listed[..4], expected);
    assert_eq!(text.asked(), 0);
    for name in expected {
        assert_eq!(paste(name).await.as_deref(), Some("grün €".as_bytes()), "{name}");
    }
    assert_eq!(text.asked(), 4);
    assert_eq!(paste("image/png").await, None);

    let picture = bytes(PNG);
    backend.offer(Selection::Clipboard, offer(&[Format::Png], &picture)).await.unwrap();
    assert_eq!(paste("image/png").await.as_deref(), Some(PNG));

    let paths = vec![PathBuf::from("/home/a b"), PathBuf::from("/ü")];
    let files = fixed(Ok(Content::Files { paths, cut: true }));
    backend.offer(Selection::Clipboard, offer(&[Format::Files], &files)).await.unwrap();
    let list = b"file:///home/a%20b\r\nfile:///%C3%BC\r\n".as_slice();
    assert_eq!(paste("text/uri-list").await.as_deref(), Some(list));
    let copied = b"cut\nfile:///home/a%20b\nfile:///%C3%BC".as_slice();
    assert_eq!(paste("x-special/gnome-copied-files").await.as_deref(), Some(copied));

    let mut secret = offer(&[Format::Text], &text);
    secret.secret = true;
    backend.offer(Selection::Clipboard, secret).await.unwrap();
    assert!(names().await.contains(&"x-kde-passwordManagerHint".to_owned()));
    assert_eq!(paste("x-kde-passwordManagerHint").await.as_deref(), Some(b"secret".as_slice()));

    let denied = fixed(Err(FetchError::Denied));
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &denied)).await.unwrap();
    assert_eq!(paste("text/plain").await.unwrap_or_default(), b"");
    assert_eq!(denied.asked(), 1);
}

#[tokio::test]
async fn own_offers_are_not_reported_nor_fetched_and_others_are_not_cleared() {
    let server = sway!();
    let (backend, mut changes) = connect(&server).await;
    empty(&mut changes).await;
    let (one, two) = (bytes("one"), bytes("two"));
    let offer_of = |source| offer(&[Format::Text], source);
    for _ in 0..3 {
        backend.offer(Selection::Clipboard, offer_of(&one)).await.unwrap();
        backend.offer(Selection::Primary, offer_of(&two)).await.unwrap();
        let own = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
        assert_eq!(own, Err(FetchError::Gone));
        assert_eq!(server.paste(&[]).await.as_deref(), Some(b"one".as_slice()));
        assert_eq!(server.paste(&["--primary"]).await.as_deref(), Some(b"two".as_slice()));
        backend.clear(Selection::Primary).await;
        assert_eq!(server.paste(&["--primary"]).await, None);
        assert_eq!(server.paste(&[]).await.as_deref(), Some(b"one".as_slice()));
        backend.clear(Selection::Clipboard).await;
        assert_eq!(server.paste(&[]).await, None);
    }
    backend.offer(Selection::Clipboard, offer_of(&one)).await.unwrap();
    // wl-copy offers whatever is text as text, too.
    let html = ["--type", "text/html"];
    let both = offered(Selection::Clipboard, &[Format::Text, Format::Html]);
    let _owner = server.copy(&html, b"theirs").await;
    // The first change there is: nothing of the above was one.
    assert_eq!(next(&mut changes).await, both);
    backend.clear(Selection::Clipboard).await;
    assert_eq!(server.paste(&html).await.as_deref(), Some(b"theirs".as_slice()));
    // wl-copy's own way to say nothing is reported.
    backend.offer(Selection::Clipboard, offer_of(&one)).await.unwrap();
    assert!(
        support::pasted({
            let mut clear = server.program("wl-copy");
            clear.arg("--clear");
            clear
        })
        .await
        .is_some()
    );
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[]));
}

#[tokio::test]
async fn fifty_programs_paste_at_once_and_the_content_is_made_less_often() {
    let server = Arc::new(sway!());
    let (backend, mut changes) = connect(&server).await;
    empty(&mut changes).await;
    let text = long_text(MIB);
    let slow = Arc::new(support::Fixed {
        content: Ok(Content::Bytes(text.clone())),
        asked: 0.into(),
        takes: Duration::from_secs(3),
    });
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &slow)).await.unwrap();
    let pastes: Vec<_> = (0..50)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.paste(&[]).await })
        })
        .collect();
    for paste in pastes {
        assert!(paste.await.unwrap().as_ref() == Some(&text));
    }
    assert!(slow.asked() < 50, "{}", slow.asked());
}

#[tokio::test]
async fn two_backends_pass_secrets_and_late_content_between_them() {
    let server = sway!();
    let (one, mut of_one) = connect(&server).await;
    let (two, mut of_two) = connect(&server).await;
    empty(&mut of_one).await;
    empty(&mut of_two).await;
    let source = bytes("hidden");
    let mut secret = offer(&[Format::Text, Format::Html], &source);
    secret.secret = true;
    one.offer(Selection::Clipboard, secret).await.unwrap();
    let mut expected = offered(Selection::Clipboard, &[Format::Text, Format::Html]);
    expected.secret = true;
    assert_eq!(next(&mut of_two).await, expected);
    let fetched = of_two.fetch(&two, Selection::Clipboard, Format::Html, 100).await;
    assert_eq!(fetched, Ok(Content::Bytes(b"hidden".to_vec())));

    // What was copied before it is not given any more, and neither is it in that one's place.
    one.offer(Selection::Clipboard, offer(&[Format::Text], &bytes("public"))).await.unwrap();
    assert_eq!(next(&mut of_two).await, offered(Selection::Clipboard, &[Format::Text]));
    let before = of_two.number(Selection::Clipboard);
    let mut secret = offer(&[Format::Text], &source);
    secret.secret = true;
    one.offer(Selection::Clipboard, secret).await.unwrap();
    expected.formats.remove(&Format::Html);
    assert_eq!(next(&mut of_two).await, expected);
    let fetched = two.fetch(Selection::Clipboard, before, Format::Text, 100).await;
    assert_eq!(fetched, Err(FetchError::Gone));

    // A source that takes longer than a fetch waits.
    let slow = Arc::new(support::Fixed {
        content: Ok(Content::Bytes(Vec::new())),
        asked: 0.into(),
        takes: Duration::from_secs(12),
    });
    one.offer(Selection::Clipboard, offer(&[Format::Png], &slow)).await.unwrap();
    assert_eq!(next(&mut of_two).await, offered(Selection::Clipboard, &[Format::Png]));
    let fetched = of_two.fetch(&two, Selection::Clipboard, Format::Png, 100).await;
    assert_eq!(fetched, Err(FetchError::Late));

    // A backend that is dropped takes its offer with it.
    drop(one);
    assert_eq!(next(&mut of_two).await, offered(Selection::Clipboard, &[]));
    assert_eq!(timeout(LIMIT, of_one.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn a_compositor_that_goes_ends_the_changes_and_fails_what_is_asked() {
    let server = sway!();
    let (backend, mut changes) = connect(&server).await;
    empty(&mut changes).await;
    server.kill();
    assert_eq!(timeout(LIMIT, changes.recv()).await.unwrap(), None);
    let fetched = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
    assert_eq!(fetched, Err(FetchError::Gone));
    let source = bytes("x");
    let given = backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await;
    assert_eq!(given, Err(FetchError::Gone));
    timeout(LIMIT, backend.clear(Selection::Clipboard)).await.unwrap();
}

#[tokio::test]
async fn the_standard_protocol_does_what_its_draft_does() {
    let server = sway!();
    let socket = support::renamed::before(&server.socket);
    let (backend, mut changes) =
        Changes::of(wayland::connect(Some(socket.as_os_str())).await.unwrap());
    empty(&mut changes).await;
    for (selection, extra) in
        [(Selection::Clipboard, &[][..]), (Selection::Primary, &["--primary"])]
    {
        let text = long_text(MIB);
        let mut owner = server.copy(extra, &text).await;
        assert_eq!(next(&mut changes).await, offered(selection, &[Format::Text]));
        let fetched = changes.fetch(&backend, selection, Format::Text, MIB).await;
        assert!(fetched == Ok(Content::Bytes(text)));
        owner.kill().await.unwrap();
        assert_eq!(next(&mut changes).await, offered(selection, &[]));

        let ours = long_text(MIB + 7);
        backend.offer(selection, offer(&[Format::Text], &bytes(&ours))).await.unwrap();
        assert!(server.paste(extra).await == Some(ours));
        backend.clear(selection).await;
        assert_eq!(server.paste(extra).await, None);
    }
    let nothing = timeout(Duration::from_millis(300), changes.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

fn name(backend: &Arc<dyn Backend>) -> String {
    backend.name().split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn wayland_is_chosen_before_x11_and_x11_when_there_is_no_wayland() {
    let server = sway!();
    if skipped(&["Xvfb"]) {
        return;
    }
    let xvfb = Xvfb::start();
    let mut display = Display {
        wayland: Some("wayland-1".into()),
        runtime: server.socket.parent().map(PathBuf::from),
        x11: Some(xvfb.display.clone()),
        authority: None,
    };
    assert_eq!(name(&connect_to(&display).await.unwrap().0), "Wayland");
    display.wayland = Some("wayland-nobody".into());
    assert_eq!(name(&connect_to(&display).await.unwrap().0), "X11");
    display.x11 = None;
    let error = connect_to(&display).await.unwrap_err();
    assert!(error.to_string().starts_with("connect to Wayland wayland-nobody: "), "{error}");
    display.wayland = None;
    let error = connect_to(&display).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoDisplay), "{error:?}");
}
