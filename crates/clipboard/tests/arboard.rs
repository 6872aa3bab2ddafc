//! Both backends beside arboard, a library of other authors with its own X11 and Wayland code.
//!
//! It finds its display in the environment, so that this program runs itself as the other side: a check
//! that is named by `ARBOARD`. It has a `main` of its own for that, and writes what the test harness would.

mod support;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

use clipboard::{Connected, Content, Format, Selection, wayland, x11};
use support::sway::Sway;
use support::{Changes, MIB, Xvfb, bytes, fixed, long_text, next, offer, offered, pasted, skipped};
use tokio::process::{Child, Command};

/// One test.
type Check = fn(&tokio::runtime::Runtime);

fn main() {
    if let Ok(part) = std::env::var("ARBOARD") {
        return other_side(&part);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let checks: [(&str, Check); 2] = [
        ("x11_and_arboard_exchange_every_format", |runtime| {
            if !skipped(&["Xvfb"]) {
                let server = Xvfb::start();
                let connect = x11::connect(Some(&server.display));
                let connected = runtime.block_on(connect).unwrap();
                runtime.block_on(exchange(connected, &|| server.program(this_program())));
            }
        }),
        ("wayland_and_arboard_exchange_every_format", |runtime| {
            if !skipped(&["sway"]) {
                let server = Sway::start();
                let connect = wayland::connect(Some(server.socket.as_os_str()));
                let connected = runtime.block_on(connect).unwrap();
                runtime.block_on(exchange(connected, &|| server.program(this_program())));
            }
        }),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| check(&runtime)));
        *if ended.is_ok() { &mut passed } else { &mut failed } += 1;
        println!("test {name} ... {}", if ended.is_ok() { "ok" } else { "FAILED" });
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured");
    assert_eq!(failed, 0);
}

fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// What arboard does: it gives until it is killed, or writes what it got.
fn other_side(part: &str) {
    use arboard::{Clipboard, GetExtLinux, LinuxClipboardKind, SetExtLinux};
    use std::io::{Read, Write};
    let mut board = Clipboard::new().expect("arboard has a display");
    let mut given = String::new();
    if part.starts_with("set") {
        std::io::stdin().read_to_string(&mut given).unwrap();
    }
    let set = |board: &mut Clipboard| -> Result<Vec<u8>, arboard::Error> {
        let primary = LinuxClipboardKind::Primary;
        match part {
            "set text" => board.set().wait().text(given)?,
            "set primary" => board.set().clipboard(primary).wait().text(given)?,
            "set secret" => board.set().exclude_from_history().wait().text(given)?,
            "set html" => board.set().wait().html(given, Some("alternative".to_owned()))?,
            "set files" => board.set().wait().file_list(&[given])?,
            "set picture" => {
                let bytes = std::borrow::Cow::Owned(vec![200; 3 * 2 * 4]);
                board.set().wait().image(arboard::ImageData { width: 3, height: 2, bytes })?;
            }
            "get text" => return board.get().text().map(String::into_bytes),
            "get primary" => return board.get().clipboard(primary).text().map(String::into_bytes),
            "get html" => return board.get().html().map(String::into_bytes),
            "get picture" => return board.get().image().map(|image| image.bytes.into_owned()),
            "get files" => {
                let files = board.get().file_list()?;
                let names = files.iter().map(|file| file.display().to_string());
                return Ok(names.collect::<Vec<_>>().join("\n").into_bytes());
            }
            other => panic!("no part {other}"),
        }
        Ok(Vec::new())
    };
    match set(&mut board) {
        Ok(got) => std::io::stdout().write_all(&got).unwrap(),
        Err(error) => {
            eprintln!("arboard: {part}: {error}");
            std::process::exit(1);
        }
    }
}

async fn exchange(connected: Connected, program: &dyn Fn() -> Command) {
    let (backend, mut changes) = Changes::of(connected);
    support::empty(&mut changes).await;
    let part = |part: &str| {
        let mut command = program();
        command.env("ARBOARD", part);
        command
    };
    let give =
        async |name: &str, content: &[u8]| -> Child { support::owner(part(name), content).await };
    let get = async |name: &str| pasted(part(name)).await;
    let text = long_text(5 * MIB);
    let clipboard = Selection::Clipboard;

    // From arboard.
    let mut owner = give("set text", &text).await;
    assert_eq!(next(&mut changes).await, offered(clipboard, &[Format::Text]));
    let fetched = changes.fetch(&backend, clipboard, Format::Text, 5 * MIB).await;
    assert!(fetched == Ok(Content::Bytes(text.clone())));
    owner.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(clipboard, &[]));

    let mut owner = give("set secret", b"hidden").await;
    let mut secret = offered(clipboard, &[Format::Text]);
    secret.secret = true;
    assert_eq!(next(&mut changes).await, secret);
    owner.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(clipboard, &[]));

    let mut owner = give("set html", "<b>grün</b>".as_bytes()).await;
    assert_eq!(next(&mut changes).await, offered(clipboard, &[Format::Text, Format::Html]));
    let html = changes.fetch(&backend, clipboard, Format::Html, 100).await;
    assert_eq!(html, Ok(Content::Bytes("<b>grün</b>".as_bytes().to_vec())));
    let plain = changes.fetch(&backend, clipboard, Format::Text, 100).await;
    assert_eq!(plain, Ok(Content::Bytes(b"alternative".to_vec())));
    owner.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(clipboard, &[]));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a b ü.txt");
    std::fs::write(&file, "").unwrap();
    let mut owner = give("set files", file.to_str().unwrap().as_bytes()).await;
    assert!(next(&mut changes).await.formats.contains(&Format::Files));
    let files = changes.fetch(&backend, clipboard, Format::Files, 1000).await;
    assert_eq!(files, Ok(Content::Files { paths: vec![file.clone()], cut: false }));
    owner.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(clipboard, &[]));

    let mut owner = give("set picture", b"").await;
    assert_eq!(next(&mut changes).await, offered(clipboard, &[Format::Png]));
    let Ok(Content::Bytes(png)) = changes.fetch(&backend, clipboard, Format::Png, MIB).await else {
        panic!("no picture");
    };
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    owner.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(clipboard, &[]));

    let mut owner = give("set primary", b"selected").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Primary, &[Format::Text]));
    let primary = changes.fetch(&backend, Selection::Primary, Format::Text, 100).await;
    assert_eq!(primary, Ok(Content::Bytes(b"selected".to_vec())));
    owner.kill().await.unwrap();
    assert_eq!(next(&mut changes).await, offered(Selection::Primary, &[]));

    // To arboard.
    let source = bytes(&text);
    backend.offer(clipboard, offer(&[Format::Text, Format::Html], &source)).await.unwrap();
    assert!(get("get text").await.as_ref() == Some(&text));
    assert!(get("get html").await.as_ref() == Some(&text));
    // The picture that arboard made itself.
    backend.offer(clipboard, offer(&[Format::Png], &bytes(&png))).await.unwrap();
    assert_eq!(get("get picture").await, Some(vec![200; 3 * 2 * 4]));
    let files = fixed(Ok(Content::Files { paths: vec![file.clone()], cut: false }));
    backend.offer(clipboard, offer(&[Format::Files], &files)).await.unwrap();
    assert_eq!(get("get files").await, Some(file.to_str().unwrap().as_bytes().to_vec()));
    let selected = bytes("picked");
    backend.offer(Selection::Primary, offer(&[Format::Text], &selected)).await.unwrap();
    assert_eq!(get("get primary").await, Some(b"picked".to_vec()));
    backend.clear(clipboard).await;
    assert_eq!(get("get text").await, None);
    // Nothing of all this was a change.
    let nothing = tokio::time::timeout(Duration::from_millis(300), changes.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}
