//! Programs that try to break the agent. It keeps to the protocol (the host of these tests checks every
//! message), lives, and still tells of a window that behaves.

use crate::client::Client;
use crate::host::{Desk, Peer, there_are};
use window_link::limits;
use x11rb::connection::Connection;
use x11rb::protocol::shape::{ConnectionExt as _, SK, SO};
use x11rb::protocol::xproto::{
    AtomEnum, ClipOrdering, ConfigureWindowAux, ConnectionExt as _, CreateGCAux, PropMode,
    Rectangle, StackMode,
};
use x11rb::wrapper::ConnectionExt as _;

const GREEN: u32 = 0x0000_ff00;

/// A new window is told, with its pixels.
fn behaves(desk: &mut Desk, check: impl FnOnce(&Desk, &mut Peer<'_>)) {
    assert!(desk.agent_lives());
    let mut host = desk.connected();
    check(desk, &mut host);
    let client = Client::new(desk);
    let window = client.window((10, 10, 64, 48), GREEN, false);
    client.map(window);
    host.until("the window of a program that behaves", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.count([0, 0xff, 0]) == 64 * 48)
    });
    drop(host);
    assert!(desk.agent_lives());
}

#[test]
fn sizes_and_places_beyond_all_limits_are_clamped() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let mut desk = Desk::new();
    // The agent is there first, as it is in a session: an X server of 2023 (21.1.7) dies when windows that
    // are too large for it are redirected that were there before.
    drop(desk.connected());
    let client = Client::new(&desk);
    let mut windows = Vec::new();
    for (place, passes_by) in [
        ((-32768, -32768, 32767, 32767), false),
        ((0, 0, 65535, 65535), false),
        ((32767, 32767, 16384, 16384), true),
        ((-1, -1, 1, 1), true),
        ((0, 0, 1600, 1200), true),
        ((5, 5, 65535, 1), false),
    ] {
        let window = client.window(place, 0x00ff_0000, passes_by);
        client.map(window);
        let aux = ConfigureWindowAux::new().x(-32768).y(32767).width(65535).height(65535);
        client.x.configure_window(window, &aux).unwrap();
        windows.push(window);
    }
    client.settle();
    behaves(&mut desk, |_, host| {
        let covering = windows[4];
        host.settle();
        if let Some(seen) = host.windows.get(&covering) {
            assert!(!seen.record.override_redirect, "it covers the screen without a frame");
        }
    });
}

#[test]
fn a_window_that_covers_the_screen_gets_a_frame() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    host.monitors(&[(0, 0, 800, 600, 100)]);
    host.settle();
    let client = Client::new(&desk);
    let covering = client.window((0, 0, 800, 600), GREEN, true);
    let small = client.window((20, 30, 200, 100), GREEN, true);
    client.map(covering);
    client.map(small);
    host.until("both windows", |host| host.windows.len() == 2);
    assert!(!host.windows[&covering].record.override_redirect);
    assert!(host.windows[&small].record.override_redirect);
}

#[test]
fn of_very_many_windows_some_are_told_and_the_others_when_there_is_room() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let windows: Vec<u32> =
        (0..10_000).map(|n| client.window(((n % 100) as i16, 5, 8, 8), GREEN, true)).collect();
    for window in &windows {
        client.x.map_window(*window).unwrap();
    }
    client.settle();
    host.until("as many as may be", |host| host.windows.len() == limits::WINDOWS);
    host.settle();
    let told: Vec<u32> = host.windows.keys().copied().collect();
    for window in &told {
        client.x.destroy_window(*window).unwrap();
    }
    client.settle();
    host.until("others in their place", |host| {
        host.windows.len() == limits::WINDOWS
            && !told.iter().any(|id| host.windows.contains_key(id))
    });
}

#[test]
fn properties_of_any_size_and_content_are_read_in_part() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let mut desk = Desk::new();
    let client = Client::new(&desk);
    let window = client.window((0, 0, 50, 40), GREEN, false);
    client.map(window);
    let garbage: Vec<u8> = (0..200_000_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
    for name in [
        "WM_CLASS",
        "WM_HINTS",
        "WM_NORMAL_HINTS",
        "WM_TRANSIENT_FOR",
        "WM_PROTOCOLS",
        "_NET_WM_WINDOW_TYPE",
        "_MOTIF_WM_HINTS",
        "_GTK_FRAME_EXTENTS",
        "_NET_WM_WINDOW_OPACITY",
        "_NET_WM_ICON",
        "_NET_WM_PID",
        "_GTK_APPLICATION_ID",
        "_NET_WM_STATE",
    ] {
        let atom = client.atom(name);
        client
            .x
            .change_property8(PropMode::REPLACE, window, atom, AtomEnum::STRING, &garbage)
            .unwrap();
        let values: Vec<u32> = garbage.iter().map(|byte| u32::from(*byte) << 24 | 0x5a5a).collect();
        client.settle();
        let kind = AtomEnum::CARDINAL;
        client.x.change_property32(PropMode::REPLACE, window, atom, kind, &values).unwrap();
        client.settle();
    }
    // 100 MB of title.
    let name = client.atom("_NET_WM_NAME");
    let utf8 = client.atom("UTF8_STRING");
    let piece = "ä\u{202e}\u{7}".repeat(200_000);
    client.x.change_property8(PropMode::REPLACE, window, name, utf8, piece.as_bytes()).unwrap();
    for _ in 0..100 {
        client.x.change_property8(PropMode::APPEND, window, name, utf8, piece.as_bytes()).unwrap();
    }
    client.settle();
    behaves(&mut desk, |_, host| {
        host.until("its title, cut", |host| {
            host.windows.get(&window).is_some_and(|seen| {
                let length = seen.record.title.len();
                (limits::TITLE - 3..=limits::TITLE).contains(&length)
            })
        });
    });
}

#[test]
fn windows_that_vanish_at_any_moment_are_nothing_special() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let mut desk = Desk::new();
    let client = Client::new(&desk);
    let mut kept = Vec::new();
    for n in 0..1500_u32 {
        let passes_by = n % 3 == 0;
        let window = client.window(((n % 500) as i16, 20, 90, 70), GREEN, passes_by);
        client.x.map_window(window).unwrap();
        let aux = ConfigureWindowAux::new()
            .width(20 + n % 300)
            .height(30 + n % 200)
            .stack_mode(StackMode::ABOVE);
        client.x.configure_window(window, &aux).unwrap();
        match n % 5 {
            0 => drop(client.x.unmap_window(window).unwrap()),
            1 => {
                let other = client.window((0, 0, 10, 10), GREEN, true);
                client.x.reparent_window(window, other, 0, 0).unwrap();
                client.x.destroy_window(other).unwrap();
            }
            2 => client.message(window, "_NET_WM_STATE", [n % 4, client.root, window, 1, 1]),
            _ => {}
        }
        if n % 50 == 0 {
            client.settle();
        }
        if n % 40 == 7 {
            kept.push(window);
        } else {
            client.x.destroy_window(window).unwrap();
        }
    }
    client.settle();
    behaves(&mut desk, |_, host| host.settle());
    // A program that ends takes all its windows with it.
    drop(client);
    behaves(&mut desk, |_, host| {
        host.settle();
        host.until("no window of the other", |host| {
            kept.iter().all(|window| !host.windows.contains_key(window))
        });
    });
}

#[test]
fn shapes_and_cursors_of_any_size_are_cut() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let mut desk = Desk::new();
    let client = Client::new(&desk);
    let window = client.window((0, 0, 1000, 900), GREEN, false);
    client.map(window);
    let rectangles: Vec<Rectangle> = (0..100_000_u32)
        .map(|n| Rectangle {
            x: (n % 500 * 2) as i16,
            y: (n / 500 * 4) as i16,
            width: 1,
            height: 2,
        })
        .collect();
    for count in [rectangles.len(), 8000, rectangles.len()] {
        let (order, part) = (ClipOrdering::YX_SORTED, &rectangles[..count]);
        client.x.shape_rectangles(SO::SET, SK::BOUNDING, order, window, 0, 0, part).unwrap();
    }
    // A cursor of 2000 x 2000, in the window under the pointer, again and again.
    for n in 0..200_u16 {
        let (pixmap, gc, cursor) = (
            client.x.generate_id().unwrap(),
            client.x.generate_id().unwrap(),
            client.x.generate_id().unwrap(),
        );
        let size = if n % 2 == 0 { 2000 } else { 16 };
        client.x.create_pixmap(1, pixmap, client.root, size, size).unwrap();
        client.x.create_gc(gc, pixmap, &CreateGCAux::new().foreground(1)).unwrap();
        let all = Rectangle { x: 0, y: 0, width: size, height: size };
        client.x.poly_fill_rectangle(pixmap, gc, &[all]).unwrap();
        client
            .x
            .create_cursor(cursor, pixmap, pixmap, 0, 0, 0, !0, 0, n, size - 1, size - 1)
            .unwrap();
        let aux = x11rb::protocol::xproto::ChangeWindowAttributesAux::new().cursor(cursor);
        client.x.change_window_attributes(client.root, &aux).unwrap();
        for id in [pixmap, gc] {
            let _ = if id == gc { client.x.free_gc(id) } else { client.x.free_pixmap(id) };
        }
        client.x.free_cursor(cursor).unwrap();
    }
    client.settle();
    behaves(&mut desk, |_, host| {
        host.until("its shape", |host| {
            host.windows.get(&window).is_some_and(|seen| !seen.record.shape.is_empty())
        });
        host.until("a cursor", |host| host.cursor.is_some());
    });
}

#[test]
fn a_host_that_says_nonsense_is_left_and_the_next_one_is_told_all() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let mut desk = Desk::new();
    {
        let mut host = desk.connected();
        host.send_bytes(&u32::MAX.to_le_bytes());
        host.until("the end of the connection", |host| host.closed);
    }
    {
        let mut host = desk.greeted(window_link::VERSION + 1);
        host.until("the end of the connection", |host| host.closed);
    }
    {
        // Orders for windows that are not there, with numbers beyond all limits.
        let mut host = desk.connected();
        for window in [0, 1, u32::MAX] {
            host.configure(window, u64::MAX, (i32::MIN, i32::MAX, u32::MAX, u32::MAX));
            host.focus(window);
            host.click(window, 0, 0);
            host.keys(window, &[0, 1, 247, 248, u32::MAX]);
            host.button(window, u32::MAX, true);
        }
        host.monitors(&[(i32::MIN, i32::MAX - 100, u32::MAX, u32::MAX, u32::MAX)]);
        host.settle();
    }
    behaves(&mut desk, |_, _| {});
}

#[test]
fn more_pixels_than_window_memory_holds_wait_for_room() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::with(1 << 20);
    let mut host = desk.connected();
    let client = Client::new(&desk);
    // 600 KB each: one fits.
    let first = client.window((0, 0, 500, 300), GREEN, false);
    let second = client.window((0, 0, 500, 300), GREEN, false);
    client.map(first);
    host.until("its pixels", |host| {
        host.windows.get(&first).is_some_and(|seen| !seen.presents.is_empty())
    });
    client.map(second);
    host.until("the other window", |host| host.windows.contains_key(&second));
    host.settle();
    assert!(host.windows[&second].presents.is_empty());
    client.x.destroy_window(first).unwrap();
    client.x.flush().unwrap();
    host.until("its pixels, now that there is room", |host| {
        host.windows.get(&second).is_some_and(|seen| seen.count([0, 0xff, 0]) == 150_000)
    });
}
