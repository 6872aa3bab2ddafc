//! What goes between agent and host, with a program of the test's own on the other side.

use crate::client::Client;
use crate::host::{Desk, Peer, there_are};
use proto::v1::{
    Configure, Keyboard, MoveResizeDirection, PointerScroll, Resync, WindowKind, from_host,
};
use std::time::Duration;
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::shape::{ConnectionExt as _, SK, SO};
use x11rb::protocol::sync::{ConnectionExt as _, Int64};
use x11rb::protocol::xproto::{
    AtomEnum, ClipOrdering, ConnectionExt as _, CreateGCAux, PropMode, Rectangle, Window,
};
use x11rb::wrapper::ConnectionExt as _;

pub const GREEN: u32 = 0x0000_ff00;
pub const GREEN_BYTES: [u8; 3] = [0, 0xff, 0];
pub const RED: u32 = 0x00ff_0000;
pub const RED_BYTES: [u8; 3] = [0, 0, 0xff];

pub fn fill(client: &Client, window: Window, colour: u32, part: (i16, i16, u16, u16)) {
    let gc = client.x.generate_id().unwrap();
    client.x.create_gc(gc, window, &CreateGCAux::new().foreground(colour)).unwrap();
    let (x, y, width, height) = part;
    client.x.poly_fill_rectangle(window, gc, &[Rectangle { x, y, width, height }]).unwrap();
    client.x.free_gc(gc).unwrap();
    client.x.flush().unwrap();
}

#[test]
fn what_is_drawn_is_presented_and_only_that_is_damaged() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let window = client.window((10, 20, 300, 200), GREEN, false);
    client.map(window);
    host.until("a green window", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.count(GREEN_BYTES) == 60_000)
    });
    // What the server paints when it maps a window may come in two presents.
    client.settle();
    host.settle();
    host.settle();
    let before = host.windows[&window].presents.len();
    fill(&client, window, RED, (100, 50, 16, 8));
    host.until("a red spot", |host| host.windows[&window].count(RED_BYTES) == 128);
    let seen = &host.windows[&window];
    assert_eq!(seen.pixel(100, 50), RED_BYTES);
    assert_eq!(seen.pixel(115, 57), RED_BYTES);
    assert_eq!(seen.pixel(116, 57), GREEN_BYTES);
    let damage = &seen.presents[before].damage;
    let whole: u32 = damage.iter().map(|part| part.width * part.height).sum();
    assert_eq!(whole, 128, "{damage:?}");

    // A window wholly under another, and one mostly outside of the screen, have all their pixels.
    let above = client.window((0, 0, 600, 500), RED, true);
    client.map(above);
    fill(&client, window, RED, (0, 0, 300, 200));
    host.until("a red window", |host| host.windows[&window].count(RED_BYTES) == 60_000);
    host.configure(window, 1, (-250, 1150, 300, 200));
    host.settle();
    fill(&client, window, GREEN, (0, 0, 300, 200));
    host.until("a green window again", |host| host.windows[&window].count(GREEN_BYTES) == 60_000);
}

#[test]
fn damage_waits_for_the_answer_and_for_a_window_to_be_seen() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let window = client.window((10, 20, 300, 200), GREEN, false);
    client.map(window);
    host.until("a window", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.count(GREEN_BYTES) == 60_000)
    });
    host.settle();
    host.holds = true;
    for n in 0..50 {
        fill(&client, window, RED, (n * 4, 3, 2, 2));
        client.settle();
        host.settle();
    }
    let seen = host.windows[&window].presents.len();
    assert!(host.windows[&window].count(RED_BYTES) < 200);
    host.holds = false;
    host.acknowledge(window);
    host.until("all that was drawn", |host| host.windows[&window].count(RED_BYTES) == 200);
    assert!(host.windows[&window].presents.len() <= seen + 2, "it is merged");

    let hide = |generation, hidden| {
        from_host::Message::Configure(Configure {
            window,
            generation,
            hidden,
            ..Configure::default()
        })
    };
    host.send(hide(1, true));
    host.settle();
    let before = host.windows[&window].presents.len();
    fill(&client, window, GREEN, (0, 0, 300, 200));
    client.settle();
    host.settle();
    assert_eq!(host.windows[&window].presents.len(), before);
    host.send(hide(2, false));
    host.until("the pixels of a window that is seen again", |host| {
        host.windows[&window].count(GREEN_BYTES) == 60_000
    });
}

#[test]
fn nothing_is_done_while_nothing_changes() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let window = client.window((10, 20, 300, 200), GREEN, false);
    client.map(window);
    host.until("a window", |host| host.windows.contains_key(&window));
    host.settle();
    let (before, presents) = (desk.processor_time(), host.presents);
    host.listen(Duration::from_secs(3));
    let used = desk.processor_time() - before;
    assert_eq!(host.presents, presents);
    assert!(used < 0.03, "{used} seconds of processor time in 3 seconds of nothing");
}

#[test]
fn a_host_that_asks_again_or_comes_back_is_told_everything() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let mut desk = Desk::new();
    let client = Client::new(&desk);
    let window = client.window((10, 20, 300, 200), GREEN, false);
    client.map(window);
    client.settle();
    let green = |host: &crate::host::Peer<'_>| {
        host.windows.get(&window).is_some_and(|seen| seen.count(GREEN_BYTES) == 60_000)
    };
    {
        let mut host = desk.connected();
        host.until("a window", green);
        host.windows.get_mut(&window).unwrap().pixels.fill(0);
        let (generation, told) = (host.windows[&window].record.generation, host.told);
        host.send(from_host::Message::Resync(Resync {}));
        host.until("all of it again", |host| {
            host.told > told && host.windows[&window].record.generation > generation && green(host)
        });
    }
    {
        let mut host = desk.connected();
        host.until("the window again", green);
    }
    // The agent dies, and another one finds the window.
    desk.kill_agent();
    desk.start_agent();
    let mut host = desk.connected();
    host.until("the window of the agent before", green);
    fill(&client, window, RED, (0, 0, 300, 200));
    host.until("what is drawn since", |host| host.windows[&window].count(RED_BYTES) == 60_000);
}

#[test]
fn the_agents_own_server_is_for_its_user_alone_and_outlives_it() {
    if !there_are(&["Xvfb", "xprop"]) {
        return;
    }
    let mut desk = Desk::new();
    desk.kill_agent();
    let runtime = desk.path().join("runtime");
    let (agent, display, authority) = desk.own_server(&runtime);
    let xprop = |authority: &std::path::Path| {
        let mut command = std::process::Command::new("xprop");
        command.args(["-root", "_NET_SUPPORTING_WM_CHECK"]);
        let output = command.env("DISPLAY", &display).env("XAUTHORITY", authority).output();
        output.unwrap().status.success()
    };
    assert!(xprop(&authority));
    assert!(!xprop(&desk.path().join("none")), "without the key nobody gets in");
    drop(agent);
    let (_agent, again, _) = desk.own_server(&runtime);
    assert_eq!(again, display);
    crate::host::end_server(&authority);
}

#[test]
fn keys_and_buttons_reach_the_window_and_are_let_go_with_the_focus() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let window = client.window((100, 100, 300, 200), GREEN, false);
    let other = client.window((100, 100, 300, 200), RED, false);
    client.map(window);
    client.map(other);
    host.until("two windows", |host| host.windows.len() == 2);
    host.focus(window);
    host.settle();
    assert_eq!(client.x.get_input_focus().unwrap().reply().unwrap().focus, window);
    let key = |pressed, code| proto::v1::Key { window, code, pressed, time: 0 };
    // Held, and repeated by the host.
    for _ in 0..3 {
        host.send(from_host::Message::Key(key(true, 30)));
    }
    host.settle();
    let held = || client.x.query_keymap().unwrap().reply().unwrap().keys;
    assert_ne!(held(), [0; 32]);
    let presses = |client: &Client| {
        let mut count = 0;
        while let Some(event) = client.x.poll_for_event().unwrap() {
            count += usize::from(matches!(event, Event::KeyPress(key) if key.detail == 38));
        }
        count
    };
    assert_eq!(presses(&client), 3);
    // The server repeats nothing by itself: 660 ms is its delay (xset(1)).
    std::thread::sleep(Duration::from_millis(1500));
    client.settle();
    assert_eq!(presses(&client), 0);
    host.focus(0);
    host.settle();
    assert_eq!(held(), [0; 32]);
    assert_ne!(client.x.get_input_focus().unwrap().reply().unwrap().focus, window);

    // The pointer is over the window that the host says, though the other lies above it.
    host.point(window, 7, 9);
    host.button(window, 3, true);
    host.settle();
    let pointer = client.x.query_pointer(window).unwrap().reply().unwrap();
    assert_eq!((pointer.child, pointer.win_x, pointer.win_y), (0, 7, 9));
    let root = client.x.query_pointer(client.root).unwrap().reply().unwrap();
    assert_eq!(root.child, window);
    let mut pressed = None;
    while let Some(event) = client.x.poll_for_event().unwrap() {
        if let Event::ButtonPress(button) = event {
            pressed = Some((button.event, button.detail));
        }
    }
    assert_eq!(pressed, Some((window, 3)));
    host.button(window, 3, false);
    let scroll = |vertical, horizontal| {
        from_host::Message::Scroll(PointerScroll { window, vertical, horizontal, time: 0 })
    };
    // Half a notch down twice, then one left.
    host.send(scroll(60, 0));
    host.send(scroll(60, 0));
    host.send(scroll(0, -120));
    host.settle();
    client.settle();
    let mut wheel = Vec::new();
    while let Some(event) = client.x.poll_for_event().unwrap() {
        if let Event::ButtonPress(button) = event {
            wheel.push(button.detail);
        }
    }
    assert_eq!(wheel, [5, 6]);
    // The pointer leaves the guest's windows.
    host.point(0, 0, 0);
    host.settle();
    let root = client.x.query_pointer(client.root).unwrap().reply().unwrap();
    assert!(![window, other].contains(&root.child));
    // A host that goes away lets go of everything.
    host.point(window, 7, 9);
    host.button(window, 1, true);
    host.send(from_host::Message::Key(key(true, 30)));
    host.settle();
    assert_ne!(held(), [0; 32]);
    drop(host);
    let mut host = desk.connected();
    host.settle();
    assert_eq!(held(), [0; 32]);
    let pointer = client.x.query_pointer(client.root).unwrap().reply().unwrap();
    assert_eq!(u16::from(pointer.mask) & 0x1f00, 0);
}

#[test]
fn shape_alpha_frames_and_owners_are_told() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let x = &client.x;
    let window = client.window((100, 100, 300, 200), GREEN, false);
    let cardinal = |window, name: &str, values: &[u32]| {
        let atom = client.atom(name);
        x.change_property32(PropMode::REPLACE, window, atom, AtomEnum::CARDINAL, values).unwrap();
    };
    let atoms = |window, name: &str, values: &[u32]| {
        let atom = client.atom(name);
        x.change_property32(PropMode::REPLACE, window, atom, AtomEnum::ATOM, values).unwrap();
    };
    cardinal(window, "_GTK_FRAME_EXTENTS", &[10, 11, 12, 13]);
    cardinal(window, "_NET_WM_WINDOW_OPACITY", &[0x8000_0000]);
    cardinal(window, "_NET_WM_PID", &[4711]);
    cardinal(window, "_NET_WM_ICON", &[2, 1, 0xff11_2233, 0x8044_5566, 1, 1, 0]);
    client.map(window);
    host.until("a window with its icon", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.icon.is_some())
    });
    let record = &host.windows[&window].record;
    let shadow = record.shadow.unwrap();
    assert_eq!((shadow.left, shadow.right, shadow.top, shadow.bottom), (10, 11, 12, 13));
    assert!(record.undecorated && !record.alpha);
    assert_eq!((record.opacity, record.pid), (0x8000, 4711));
    let icon = host.windows[&window].icon.as_ref().unwrap();
    assert_eq!((icon.width, icon.height), (2, 1));
    assert_eq!(icon.pixels, [0x33, 0x22, 0x11, 0xff, 0x66, 0x55, 0x44, 0x80]);

    let dialog = client.window((0, 0, 100, 50), GREEN, false);
    let own = AtomEnum::WM_TRANSIENT_FOR;
    x.change_property32(PropMode::REPLACE, dialog, own, AtomEnum::WINDOW, &[window]).unwrap();
    atoms(dialog, "_NET_WM_STATE", &[client.atom("_NET_WM_STATE_MODAL")]);
    client.map(dialog);
    // A menu that says nothing of itself, and a tooltip that does.
    let menu = client.window((150, 150, 60, 70), GREEN, true);
    client.map(menu);
    let tooltip = client.window((10, 15, 60, 20), GREEN, true);
    atoms(tooltip, "_NET_WM_WINDOW_TYPE", &[client.atom("_NET_WM_WINDOW_TYPE_TOOLTIP")]);
    client.map(tooltip);
    host.until("four windows", |host| host.windows.len() == 4);
    let record = |id: &u32| &host.windows[id].record;
    assert_eq!(
        (record(&dialog).kind(), record(&dialog).transient_for),
        (WindowKind::Dialog, window)
    );
    assert!(record(&dialog).modal);
    let around = record(&window).geometry.unwrap();
    let own = record(&dialog).geometry.unwrap();
    assert_eq!((own.x, own.y), (around.x + 100, around.y + 75), "in the middle of its owner");
    assert_eq!(record(&menu).kind(), WindowKind::Menu);
    assert!([window, dialog].contains(&record(&menu).transient_for));
    assert_eq!(record(&menu).geometry.map(|g| (g.x, g.y)), Some((150, 150)));
    assert_eq!(record(&tooltip).kind(), WindowKind::Tooltip);

    let parts = [
        Rectangle { x: 0, y: 0, width: 50, height: 20 },
        Rectangle { x: 10, y: 20, width: 30, height: 30 },
    ];
    let order = ClipOrdering::UNSORTED;
    x.shape_rectangles(SO::SET, SK::BOUNDING, order, window, 0, 0, &parts).unwrap();
    x.flush().unwrap();
    host.until("the shape", |host| host.windows[&window].record.shape.len() == 2);
    assert_eq!(host.windows[&window].record.shape[1].x, 10);

    client.message(window, "_NET_WM_MOVERESIZE", [150, 150, 8, 1, 1]);
    client.message(window, "_NET_WM_MOVERESIZE", [150, 150, 4, 1, 1]);
    client.message(window, "_NET_WM_MOVERESIZE", [150, 150, 99, 1, 1]);
    host.until("two moves by the pointer", |host| host.move_resizes.len() == 2);
    assert_eq!(host.move_resizes[0].direction(), MoveResizeDirection::Move);
    assert_eq!(host.move_resizes[1].direction(), MoveResizeDirection::BottomRight);
    x.bell(0).unwrap();
    x.flush().unwrap();
    host.until("a bell", |host| host.bells > 0);
}

#[test]
fn the_screen_has_the_shape_and_scale_of_the_hosts_monitors() {
    if !there_are(&["Xvfb", "xrandr", "xprop"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    host.monitors(&[(0, 0, 800, 600, 150), (800, 100, 640, 480, 100)]);
    host.settle();
    let listed = desk.ask("xrandr", &["--listmonitors"]);
    assert!(listed.contains("Monitors: 2"), "{listed}");
    assert!(listed.contains("*HOST-0 800/") && listed.contains("+0+0"), "{listed}");
    assert!(listed.contains("HOST-1 640/") && listed.contains("+800+100"), "{listed}");
    assert!(desk.ask("xrandr", &[]).contains("current 1440 x 600"));
    let root = desk.ask("xprop", &["-root", "RESOURCE_MANAGER", "_NET_WORKAREA"]);
    assert!(root.contains("Xft.dpi:\\t144"), "{root}");
    assert!(root.contains("0, 30, 800, 570"), "{root}");
    // One is plugged out, and the other grows.
    host.monitors(&[(0, 0, 1600, 1200, 200)]);
    host.settle();
    let listed = desk.ask("xrandr", &["--listmonitors"]);
    assert!(listed.contains("Monitors: 1") && listed.contains("1600/"), "{listed}");
    assert!(desk.ask("xprop", &["-root", "RESOURCE_MANAGER"]).contains("Xft.dpi:\\t192"));
    assert!(desk.ask("xrandr", &[]).contains("current 1600 x 1200"));
}

#[test]
fn an_icon_may_be_a_pixmap_with_a_mask() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let window = client.window((10, 10, 100, 100), GREEN, false);
    let pixmap = |depth: u8, fills: &[(u32, Rectangle)]| {
        let pixmap = client.x.generate_id().unwrap();
        client.x.create_pixmap(depth, pixmap, window, 3, 2).unwrap();
        for (colour, part) in fills {
            let gc = client.x.generate_id().unwrap();
            client.x.create_gc(gc, pixmap, &CreateGCAux::new().foreground(*colour)).unwrap();
            client.x.poly_fill_rectangle(pixmap, gc, &[*part]).unwrap();
        }
        pixmap
    };
    let part = |x, width| Rectangle { x, y: 0, width, height: 2 };
    let icon = pixmap(24, &[(0x0011_2233, part(0, 2)), (0x0044_5566, part(2, 1))]);
    let mask = pixmap(1, &[(0, part(0, 3)), (1, part(1, 2))]);
    let hints = [(1 << 2) | (1 << 5), 0, 0, icon, 0, 0, 0, mask, 0];
    let (name, replace) = (AtomEnum::WM_HINTS, PropMode::REPLACE);
    client.x.change_property32(replace, window, name, name, &hints).unwrap();
    client.map(window);
    host.until("a window with its icon", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.icon.is_some())
    });
    let icon = host.windows[&window].icon.as_ref().unwrap();
    assert_eq!((icon.width, icon.height), (3, 2));
    let line = [0, 0, 0, 0, 0x33, 0x22, 0x11, 0xff, 0x66, 0x55, 0x44, 0xff];
    assert_eq!(icon.pixels, [line, line].concat());
}

#[test]
fn monitors_left_of_and_above_the_hosts_origin_are_on_the_screen() {
    if !there_are(&["Xvfb", "xrandr"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    host.monitors(&[(-800, -100, 800, 600, 100), (0, 0, 640, 480, 100)]);
    host.settle();
    let listed = desk.ask("xrandr", &["--listmonitors"]);
    assert!(listed.contains("*HOST-0 800/") && listed.contains("+0+0"), "{listed}");
    assert!(listed.contains("HOST-1 640/") && listed.contains("+800+100"), "{listed}");
    let client = Client::new(&desk);
    let window = client.window((100, 100, 300, 200), GREEN, false);
    client.map(window);
    host.until("a window", |host| host.windows.contains_key(&window));
    host.configure(window, 1, (-700, -50, 300, 200));
    let here = |host: &Peer<'_>| {
        let place = host.windows[&window].geometry();
        (host.windows[&window].record.configured, place.x, place.y) == (1, -700, -50)
    };
    host.until("the window there", here);
    host.settle();
    let place = || client.x.get_geometry(window).unwrap().reply().unwrap();
    assert_eq!((place().x, place().y), (100, 50));
    // The host has it where it was when that monitor goes.
    host.monitors(&[(0, 0, 640, 480, 100)]);
    host.settle();
    assert_eq!((place().x, place().y), (-700, -50));
    assert!(here(&host));
}

#[test]
fn keys_mean_what_they_mean_on_the_host() {
    if !there_are(&["Xvfb", "xterm", "setxkbmap"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let layout = |layout: &str, caps_lock| {
        from_host::Message::Keyboard(Keyboard {
            rules: "evdev".into(),
            model: "pc105".into(),
            layout: layout.into(),
            caps_lock,
            ..Keyboard::default()
        })
    };
    host.send(layout("de", false));
    let file = desk.path().join("typed");
    let script = format!("while read line; do echo \"$line\" >>{}; done", file.display());
    let _xterm = desk.run("xterm", &["-e", "sh", "-c", &script]);
    let window = host.find("XTerm");
    host.focus(window);
    // What keys mean is asked by the program itself, some time after they are pressed: each line waits for the one
    // before it.
    let typed = |host: &mut Peer<'_>, keys: &[u32], expected: &str| {
        host.keys(window, keys);
        host.keys(window, &[28]);
        host.until("what was typed", |_| {
            std::fs::read_to_string(&file).is_ok_and(|typed| typed.ends_with('\n'))
        });
        assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
        std::fs::remove_file(&file).unwrap();
    };
    // y and ö on a German keyboard, then the same keys on an American one, with caps lock.
    typed(&mut host, &[44, 39], "yö\n");
    host.send(layout("us", true));
    typed(&mut host, &[44, 39], "Z;\n");
    host.send(layout("us", false));
    typed(&mut host, &[44], "z\n");
}

#[test]
fn a_program_that_counts_is_resized_at_its_own_pace_and_one_that_stops_is_not_waited_for() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let window = client.window((10, 20, 300, 200), GREEN, false);
    let counter = client.x.generate_id().unwrap();
    let count = |value: u32| {
        client.x.sync_set_counter(counter, Int64 { hi: 0, lo: value }).unwrap();
        client.x.flush().unwrap();
    };
    client.x.sync_initialize(3, 1).unwrap().reply().unwrap();
    client.x.sync_create_counter(counter, Int64 { hi: 0, lo: 0 }).unwrap();
    let property = |name: &str, kind: AtomEnum, value: u32| {
        let atom = client.atom(name);
        client.x.change_property32(PropMode::REPLACE, window, atom, kind, &[value]).unwrap();
    };
    property("_NET_WM_SYNC_REQUEST_COUNTER", AtomEnum::CARDINAL, counter);
    let sync = client.atom("_NET_WM_SYNC_REQUEST");
    property("WM_PROTOCOLS", AtomEnum::ATOM, sync);
    client.map(window);
    host.until("a window", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.count(GREEN_BYTES) == 60_000)
    });
    // Three sizes: the program hears of the first, and of the last when it has drawn the first.
    for generation in 1..=3 {
        host.configure(window, generation, (10, 20, 300 + 10 * generation as u32, 200));
        host.settle();
    }
    let asked = |client: &Client| loop {
        if let Event::ClientMessage(message) = client.x.wait_for_event().unwrap() {
            let data = message.data.as_data32();
            assert_eq!(data[0], sync);
            return data[2];
        }
    };
    let first = asked(&client);
    let size = || client.x.get_geometry(window).unwrap().reply().unwrap().width;
    assert_eq!(size(), 310);
    count(first);
    let second = asked(&client);
    host.until("the last size", |_| size() == 330);
    count(second);
    host.until("the last size's pixels", |host| host.windows[&window].size == (330, 200));
    assert_eq!(host.windows[&window].record.configured, 3);
    // It stops to draw, and is resized all the same.
    host.configure(window, 4, (10, 20, 400, 200));
    host.configure(window, 5, (10, 20, 410, 200));
    host.until("the size that nobody has drawn", |host| host.windows[&window].size == (410, 200));
    // A counter that is none.
    property("_NET_WM_SYNC_REQUEST_COUNTER", AtomEnum::CARDINAL, window);
    client.settle();
    host.settle();
    host.configure(window, 6, (10, 20, 420, 200));
    host.until("the size of a program that counts wrong", |host| {
        host.windows[&window].size == (420, 200)
    });
}
