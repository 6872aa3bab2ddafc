//! Real programs.

use crate::host::{Desk, Seen, there_are};
use proto::v1::{CloseWindow, Configure, Key, WindowKind, WindowState, from_host};

const TERMINAL: [&str; 2] = ["Xvfb", "xterm"];

#[test]
fn a_terminal_is_told_with_its_title_class_and_pixels_and_typed_into() {
    if !there_are(&TERMINAL) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let file = desk.path().join("typed");
    let script = format!("read line; printf %s \"$line\" > {}; sleep 1000", file.display());
    let _xterm = desk.run(
        "xterm",
        &["-T", "Tür zu\u{7}", "-bg", "#102030", "-fg", "#405060", "-e", "sh", "-c", &script],
    );
    let window = host.find("XTerm");
    let seen = &host.windows[&window];
    assert_eq!(seen.record.instance, "xterm");
    assert!(seen.record.title.starts_with("Tür zu"), "{:?}", seen.record.title);
    assert_eq!(seen.record.kind(), WindowKind::Normal);
    assert!(!seen.record.override_redirect && !seen.record.no_focus);
    assert!(seen.record.size_hints.unwrap().width_increment > 1);
    assert_eq!((seen.geometry().width, seen.geometry().height), seen.size);
    host.until("the terminal's background", |host| {
        host.windows[&window].count([0x30, 0x20, 0x10]) > 10_000
    });
    // a, shift+b, enter
    host.focus(window);
    host.settle();
    host.keys(window, &[30]);
    let shift =
        |pressed| from_host::Message::Key(proto::v1::Key { window, code: 42, pressed, time: 0 });
    host.send(shift(true));
    host.keys(window, &[48]);
    host.send(shift(false));
    host.keys(window, &[28]);
    host.until("what was typed", |_| {
        std::fs::read_to_string(&file).is_ok_and(|typed| typed == "aB")
    });
    assert!(host.windows[&window].count([0x60, 0x50, 0x40]) > 0, "letters are drawn");
}

#[test]
fn geometry_and_states_go_both_ways() {
    if !there_are(&["Xvfb", "xterm", "xdotool", "wmctrl", "xprop"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    host.monitors(&[(0, 0, 1000, 800, 100), (1000, 0, 600, 800, 100)]);
    let _xterm = desk.run("xterm", &["-geometry", "40x10+50+60"]);
    let window = host.find("XTerm");
    let id = window.to_string();
    assert_eq!((host.windows[&window].geometry().x, host.windows[&window].geometry().y), (50, 60));

    // The host moves and resizes; a later order wins, an older one is dropped.
    host.configure(window, 1, (100, 120, 500, 400));
    host.configure(window, 2, (110, 130, 480, 390));
    host.configure(window, 1, (1, 1, 100, 100));
    host.until("the window where the host put it", |host| {
        let seen = &host.windows[&window];
        seen.record.configured == 2 && seen.size == (480, 390)
    });
    let told = host.windows[&window].geometry();
    assert_eq!((told.x, told.y, told.width, told.height), (110, 130, 480, 390));
    let said = desk.ask("xdotool", &["getwindowgeometry", "--shell", &id]);
    assert!(said.contains("X=110\nY=130\nWIDTH=480\nHEIGHT=390"), "{said}");

    // The program does.
    desk.ask("xdotool", &["windowmove", &id, "200", "210"]);
    desk.ask("xdotool", &["windowsize", &id, "300", "200"]);
    host.until("the window where its program put it", |host| {
        let place = host.windows[&window].geometry();
        (place.x, place.y, place.width, place.height) == (200, 210, 300, 200)
    });
    host.until("its pixels", |host| host.windows[&window].size == (300, 200));

    // Fullscreen and back, asked for by the program: on the monitor that it is on.
    let wm = |arguments: &[&str]| {
        let mut all = vec!["-i", "-r", &id];
        all.extend(arguments);
        desk.ask("wmctrl", &all)
    };
    wm(&["-b", "add,fullscreen"]);
    host.until("a fullscreen window", |host| {
        let seen = &host.windows[&window];
        seen.state().fullscreen && (seen.geometry().width, seen.geometry().height) == (1000, 800)
    });
    wm(&["-b", "remove,fullscreen"]);
    host.until("the window as before", |host| {
        let seen = &host.windows[&window];
        !seen.state().fullscreen && (seen.geometry().width, seen.geometry().height) == (300, 200)
    });
    wm(&["-b", "add,maximized_vert,maximized_horz"]);
    host.until("a maximized window", |host| {
        let seen = &host.windows[&window];
        seen.state().maximized_vertically && seen.geometry().height == 770
    });

    // The host minimizes it, and its program learns of it; the program takes it back.
    let state = WindowState { minimized: true, ..WindowState::default() };
    let configure = Configure { window, generation: 3, state: Some(state), ..Configure::default() };
    host.send(from_host::Message::Configure(configure));
    host.until("a minimized window", |host| host.windows[&window].state().minimized);
    host.settle();
    assert!(desk.ask("xprop", &["-id", &id, "WM_STATE"]).contains("Iconic"));
    assert!(desk.ask("xprop", &["-id", &id, "_NET_WM_STATE"]).contains("HIDDEN"));
    let before = host.windows[&window].presents.len();
    desk.ask("xdotool", &["windowmap", &id]);
    host.until("a window that is back", |host| {
        let seen = &host.windows[&window];
        !seen.state().minimized && seen.presents.len() > before
    });

    desk.ask("xdotool", &["windowactivate", &id]);
    host.until("it wants to be used", |host| host.raised.iter().any(|raised| raised.activate));

    // A user closes it.
    host.send(from_host::Message::Close(CloseWindow { window }));
    host.until("no window", |host| host.gone.contains(&window));
}

#[test]
fn a_menu_of_a_terminal_is_a_window_of_its_own_at_its_place() {
    if !there_are(&TERMINAL) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let _xterm = desk.run("xterm", &["-geometry", "60x20+100+100"]);
    let window = host.find("XTerm");
    host.focus(window);
    host.point(window, 40, 30);
    let control = |pressed| from_host::Message::Key(Key { window, code: 29, pressed, time: 0 });
    // Control and the left button.
    host.send(control(true));
    host.button(window, 1, true);
    let is_menu = |seen: &&Seen| seen.record.override_redirect && !seen.presents.is_empty();
    host.until("a menu", |host| host.windows.values().any(|seen| is_menu(&seen)));
    let menu = host.windows.values().find(is_menu).unwrap();
    let (id, place) = (menu.record.id, menu.geometry());
    assert_eq!(menu.record.transient_for, window);
    // Under the pointer, and with its border.
    assert!((place.x..place.x + place.width as i32).contains(&140), "{place:?}");
    assert!((100..200).contains(&place.y), "{place:?}");
    assert_eq!((place.width, place.height), menu.size);
    assert!(place.width > 50 && place.height > 100, "{place:?}");
    host.button(window, 1, false);
    host.send(control(false));
    host.until("no menu", |host| host.gone.contains(&id));
}

#[test]
fn shaped_windows_follow_the_pointer_with_their_eyes() {
    if !there_are(&["Xvfb", "xeyes"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let _xeyes = desk.run("xeyes", &["-geometry", "200x150+100+100"]);
    let window = host.find("XEyes");
    host.until("a shape", |host| !host.windows[&window].record.shape.is_empty());
    host.point(window, 5, 5);
    host.settle();
    host.until("eyes", |host| host.windows[&window].count([0, 0, 0]) > 100);
    let before = host.windows[&window].pixels.clone();
    host.point(window, 195, 145);
    host.until("eyes that look elsewhere", |host| host.windows[&window].pixels != before);
}

#[test]
fn a_gtk_dialog_has_an_icon_a_cursor_and_takes_text_and_clicks() {
    if !there_are(&["Xvfb", "zenity"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let output = desk.path().join("output");
    let script = format!("zenity --entry --title 'Wie heißt du?' > {}", output.display());
    let mut zenity = desk.run("sh", &["-c", &script]);
    let mut window = 0;
    host.until("a dialog", |host| {
        let is = |seen: &&Seen| seen.record.title == "Wie heißt du?" && !seen.presents.is_empty();
        window = host.windows.values().find(is).map_or(0, |seen| seen.record.id);
        window != 0
    });
    let seen = &host.windows[&window];
    assert_eq!(seen.record.class.to_lowercase(), "zenity");
    assert_eq!(seen.record.kind(), WindowKind::Dialog);
    assert!(seen.record.pid > 0);
    host.focus(window);
    host.settle();
    // H, i, return
    host.keys(window, &[35, 23, 28]);
    host.until("its answer", |_| std::fs::read_to_string(&output).is_ok_and(|text| text == "hi\n"));
    host.until("no dialog", |host| host.gone.contains(&window));
    assert!(zenity.0.wait().unwrap().success());
    // The pointer over an entry is a text cursor, over a terminal's, too; here the name is GTK's.
    assert!(host.cursor.is_some());
}

#[test]
fn a_gtk_program_is_twice_as_large_at_twice_the_scale() {
    if !there_are(&["Xvfb", "zenity"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let mut size_at = |scale: u32| {
        host.monitors(&[(0, 0, 1600, 1200, scale)]);
        host.settle();
        let _zenity = desk.run("zenity", &["--info", "--text", "scale", "--title", "scale"]);
        let mut size = (0, 0);
        let mut id = 0;
        host.until("a dialog", |host| {
            let is = |seen: &&Seen| seen.record.title == "scale" && !seen.presents.is_empty();
            if let Some(seen) = host.windows.values().find(is) {
                (id, size) = (seen.record.id, seen.size);
            }
            id != 0
        });
        drop(_zenity);
        host.until("no dialog", |host| host.gone.contains(&id));
        size
    };
    let (once, twice) = (size_at(100), size_at(200));
    assert!(twice.0 > once.0 * 3 / 2 && twice.1 > once.1 * 3 / 2, "{once:?} {twice:?}");
}

#[test]
fn a_qt_editor_is_typed_into_and_opens_its_menus() {
    if !there_are(&["Xvfb", "featherpad"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    host.monitors(&[(0, 0, 1600, 1200, 100)]);
    let file = desk.path().join("text.txt");
    std::fs::write(&file, "").unwrap();
    let _editor = desk.run("featherpad", &["--standalone", file.to_str().unwrap()]);
    let mut window = 0;
    host.until("an editor", |host| {
        let is = |seen: &&Seen| seen.record.title.contains("text.txt") && !seen.presents.is_empty();
        window = host.windows.values().find(is).map_or(0, |seen| seen.record.id);
        window != 0
    });
    assert_eq!(host.windows[&window].record.class.to_lowercase(), "featherpad");
    host.focus(window);
    host.settle();
    host.keys(window, &[35, 23]);
    // Alt+F opens a menu, escape closes it.
    let alt = |pressed| from_host::Message::Key(Key { window, code: 56, pressed, time: 0 });
    host.send(alt(true));
    host.keys(window, &[33]);
    host.send(alt(false));
    let is_menu = |seen: &&Seen| seen.record.override_redirect && !seen.presents.is_empty();
    host.until("a menu", |host| host.windows.values().any(|seen| is_menu(&seen)));
    let menu = host.windows.values().find(is_menu).unwrap();
    let (id, place) = (menu.record.id, menu.geometry());
    let editor = host.windows[&window].geometry();
    assert_eq!(menu.record.transient_for, window);
    assert!(matches!(menu.record.kind(), WindowKind::Menu | WindowKind::Dropdown));
    assert!(place.x >= editor.x && place.y > editor.y && place.y < editor.y + 200, "{place:?}");
    host.keys(window, &[1]);
    host.until("no menu", |host| host.gone.contains(&id));
    // Control+S
    let control = |pressed| from_host::Message::Key(Key { window, code: 29, pressed, time: 0 });
    host.send(control(true));
    host.keys(window, &[31]);
    host.send(control(false));
    host.until("a saved file", |_| {
        std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == "hi")
    });
}
