//! Real programs.

use crate::host::{Desk, there_are};
use proto::v1::{CloseWindow, Configure, WindowKind, WindowState, from_host};

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
    let shift = |pressed| from_host::Message::Key(proto::v1::Key { window, code: 42, pressed, time: 0 });
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
