//! The X11 backend beside xclip, both ways, on an Xvfb without a window manager.

#[macro_use]
mod support;

use std::path::PathBuf;
use std::sync::Arc;

use clipboard::{ConnectError, Content, FetchError, Format, Selection, x11};
use support::{
    Changes, LIMIT, MIB, PNG, bytes, empty, fixed, long_text, next, offer, offered, until,
};
use tokio::time::timeout;

#[tokio::test]
async fn the_present_state_comes_first_and_then_each_change() {
    let server = xvfb!();
    let first = server.xclip_in(&["-selection", "clipboard"], b"one").await;
    while server.xclip_out(&["-selection", "clipboard"]).await.is_none() {}
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    assert_eq!(backend.name(), format!("X11 {}", server.display));
    let mut state = [next(&mut changes).await, next(&mut changes).await];
    state.sort_by_key(|offered| offered.selection);
    let text = offered(Selection::Clipboard, &[Format::Text]);
    assert_eq!(state, [text.clone(), offered(Selection::Primary, &[])]);

    let _primary = server.xclip_in(&["-selection", "primary"], b"two").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Primary, &[Format::Text]));
    let html = ["-selection", "clipboard", "-t", "text/html"];
    let _second = server.xclip_in(&html, b"<b>three</b>").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Html]));
    drop(first);
    // The same format again is a change: the content is another.
    let mut third = server.xclip_in(&html, b"<b>four</b>").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Html]));
    third.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[]));
}

#[tokio::test]
async fn every_format_is_fetched_from_xclip() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let utf16: Vec<u8> = "\u{feff}<i>ü</i>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let files =
        |cut| Content::Files { paths: vec![PathBuf::from("/home/a b"), PathBuf::from("/ü")], cut };
    let list = b"file:///home/a%20b\r\nhttps://x/\r\nfile:///%C3%BC\r\n";
    let copied = b"cut\nfile:///home/a%20b\nfile:///%C3%BC";
    let text = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    let cases: [(&str, Format, &[u8], Content); 10] = [
        ("UTF8_STRING", Format::Text, "grün €".as_bytes(), text("grün €")),
        ("text/plain;charset=utf-8", Format::Text, "grün €".as_bytes(), text("grün €")),
        ("text/plain", Format::Text, "grün €".as_bytes(), text("grün €")),
        ("STRING", Format::Text, b"gr\xfcn", text("grün")),
        ("UTF8_STRING", Format::Text, b"", text("")),
        ("text/html", Format::Html, "<i>ü</i>".as_bytes(), text("<i>ü</i>")),
        ("text/html", Format::Html, &utf16, text("<i>ü</i>")),
        ("image/png", Format::Png, PNG, Content::Bytes(PNG.to_vec())),
        ("text/uri-list", Format::Files, list, files(false)),
        ("x-special/gnome-copied-files", Format::Files, copied, files(true)),
    ];
    for (name, format, given, expected) in cases {
        let arguments = ["-selection", "clipboard", "-t", name];
        let _owner = server.xclip_in(&arguments, given).await;
        until(&mut changes, &offered(Selection::Clipboard, &[format])).await;
        let fetched = changes.fetch(&backend, Selection::Clipboard, format, 1000).await;
        assert!(fetched == Ok(expected), "{name}: {fetched:?}");
        let other = changes.fetch(&backend, Selection::Primary, format, 1000).await;
        assert_eq!(other, Err(FetchError::Gone), "{name}");
    }
}

#[tokio::test]
async fn long_text_is_fetched_by_incr_and_too_much_is_refused() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let text = long_text(5 * MIB);
    let _owner = server.xclip_in(&["-selection", "clipboard"], &text).await;
    next(&mut changes).await;
    let fetch = |most| changes.fetch(&backend, Selection::Clipboard, Format::Text, most);
    // One after another, and two at once, which xclip itself could not serve.
    assert!(fetch(5 * MIB).await == Ok(Content::Bytes(text.clone())));
    let (one, two) = tokio::join!(fetch(6 * MIB), fetch(5 * MIB));
    assert!(one == Ok(Content::Bytes(text.clone())) && two == one);
    assert_eq!(fetch(5 * MIB - 1).await, Err(FetchError::Large(5 * MIB - 1)));
    assert_eq!(fetch(10).await, Err(FetchError::Large(10)));
    assert!(fetch(5 * MIB).await == Ok(Content::Bytes(text)));
}

#[tokio::test]
async fn xclip_pastes_every_format_that_is_offered() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let targets = async || {
        let names = server.xclip_out(&["-selection", "clipboard", "-t", "TARGETS"]).await.unwrap();
        let names = String::from_utf8(names).unwrap();
        names.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let paste = async |name: &str| server.xclip_out(&["-selection", "clipboard", "-t", name]).await;

    let text = bytes("grün €");
    let given = offer(&[Format::Text, Format::Html], &text);
    backend.offer(Selection::Clipboard, given).await.unwrap();
    let expected = [
        "TARGETS",
        "TIMESTAMP",
        "MULTIPLE",
        "UTF8_STRING",
        "text/plain;charset=utf-8",
        "text/plain",
        "STRING",
        "text/html",
        "TEXT",
    ];
    assert_eq!(targets().await, expected);
    // Nothing is made before somebody pastes.
    assert_eq!(text.asked(), 0);
    for name in ["UTF8_STRING", "text/plain;charset=utf-8", "text/plain", "TEXT", "text/html"] {
        assert_eq!(paste(name).await.as_deref(), Some("grün €".as_bytes()), "{name}");
    }
    assert_eq!(paste("STRING").await.as_deref(), Some(b"gr\xfcn ?".as_slice()));
    assert_eq!(text.asked(), 6);
    assert_eq!(paste("image/png").await, None);
    assert_eq!(paste("x-kde-passwordManagerHint").await, None);

    let picture = bytes(PNG);
    backend.offer(Selection::Clipboard, offer(&[Format::Png], &picture)).await.unwrap();
    assert_eq!(paste("image/png").await.as_deref(), Some(PNG));
    assert_eq!(paste("UTF8_STRING").await, None);

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
    assert!(targets().await.contains(&"x-kde-passwordManagerHint".to_owned()));
    assert_eq!(paste("x-kde-passwordManagerHint").await.as_deref(), Some(b"secret".as_slice()));
}

#[tokio::test]
async fn xclip_pastes_long_text_by_incr() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    for length in [256 << 10, MIB, MIB + 1, 2 * MIB, 5 * MIB] {
        let text = long_text(length);
        let source = bytes(&text);
        backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await.unwrap();
        let pasted = server.xclip_out(&["-selection", "clipboard"]).await;
        assert!(pasted == Some(text), "{length} bytes");
    }
}

#[tokio::test]
async fn fifty_programs_paste_at_once_and_the_content_is_made_once() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let text = long_text(MIB);
    let slow = Arc::new(support::Fixed {
        content: Ok(Content::Bytes(text.clone())),
        asked: 0.into(),
        takes: std::time::Duration::from_secs(3),
    });
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &slow)).await.unwrap();
    let server = Arc::new(server);
    let pastes: Vec<_> = (0..50)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.xclip_out(&["-selection", "clipboard"]).await })
        })
        .collect();
    for paste in pastes {
        assert!(paste.await.unwrap().as_ref() == Some(&text));
    }
    // All asked within the time the first making took, but for programs that started late.
    assert!(slow.asked() < 50, "{}", slow.asked());
}

#[tokio::test]
async fn the_two_selections_are_apart() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let (one, two) = (bytes("one"), bytes("two"));
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &one)).await.unwrap();
    backend.offer(Selection::Primary, offer(&[Format::Text], &two)).await.unwrap();
    let paste = async |selection| server.xclip_out(&["-selection", selection]).await;
    assert_eq!(paste("clipboard").await.as_deref(), Some(b"one".as_slice()));
    assert_eq!(paste("primary").await.as_deref(), Some(b"two".as_slice()));
    backend.clear(Selection::Primary).await;
    assert_eq!(paste("primary").await, None);
    assert_eq!(paste("clipboard").await.as_deref(), Some(b"one".as_slice()));
}

#[tokio::test]
async fn own_offers_are_not_reported_nor_fetched_and_others_are_not_cleared() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let source = bytes("ours");
    for _ in 0..3 {
        backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await.unwrap();
        let own = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
        assert_eq!(own, Err(FetchError::Gone));
        backend.clear(Selection::Clipboard).await;
        assert_eq!(server.xclip_out(&["-selection", "clipboard"]).await, None);
    }
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await.unwrap();
    let html = ["-selection", "clipboard", "-t", "text/html"];
    let _owner = server.xclip_in(&html, b"theirs").await;
    // The first change there is: nothing of the above was one.
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Html]));
    backend.clear(Selection::Clipboard).await;
    let theirs = server.xclip_out(&html).await;
    assert_eq!(theirs.as_deref(), Some(b"theirs".as_slice()));
    // And taken back.
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await.unwrap();
    let ours = server.xclip_out(&["-selection", "clipboard"]).await;
    assert_eq!(ours.as_deref(), Some(b"ours".as_slice()));
    assert_eq!(source.asked(), 1);
}

#[tokio::test]
async fn a_source_that_refuses_fails_the_paste_and_nothing_else() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let denied = fixed(Err(FetchError::Denied));
    backend.offer(Selection::Clipboard, offer(&[Format::Html], &denied)).await.unwrap();
    let html = ["-selection", "clipboard", "-t", "text/html"];
    assert_eq!(server.xclip_out(&html).await, None);
    assert_eq!(denied.asked(), 1);
    let allowed = bytes("now");
    backend.offer(Selection::Clipboard, offer(&[Format::Html], &allowed)).await.unwrap();
    assert_eq!(server.xclip_out(&html).await.as_deref(), Some(b"now".as_slice()));
    let nothing = backend.offer(Selection::Clipboard, offer(&[], &allowed)).await;
    assert!(matches!(nothing, Err(FetchError::Failed(_))), "{nothing:?}");
}

#[tokio::test]
async fn two_backends_pass_content_between_them() {
    let server = xvfb!();
    let (one, mut of_one) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    let (two, mut of_two) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut of_one).await;
    empty(&mut of_two).await;
    let text = long_text(3 * MIB);
    let source = bytes(&text);
    let mut secret = offer(&[Format::Text, Format::Html], &source);
    secret.secret = true;
    one.offer(Selection::Clipboard, secret).await.unwrap();
    let mut expected = offered(Selection::Clipboard, &[Format::Text, Format::Html]);
    expected.secret = true;
    assert_eq!(next(&mut of_two).await, expected);
    let fetched = of_two.fetch(&two, Selection::Clipboard, Format::Html, 3 * MIB).await;
    assert!(fetched == Ok(Content::Bytes(text)));
    // A backend that is dropped takes its offer with it.
    drop(one);
    assert_eq!(next(&mut of_two).await, offered(Selection::Clipboard, &[]));
    assert_eq!(timeout(LIMIT, of_one.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_goes_ends_the_changes_and_fails_what_is_asked() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
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
async fn a_display_that_nobody_serves_is_refused_by_name() {
    let error = x11::connect(Some(":65000")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    assert!(error.to_string().starts_with("connect to X11 :65000: "), "{error}");
    let error = x11::connect(Some("no display")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
}
