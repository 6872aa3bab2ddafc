//! Guests' windows on a desktop with a window manager, as its programs see and move them.

mod support;

use compositor_control::ToCompositor;
use proto::v1::{self, from_guest, from_host};
use support::guest::{menu, opaque, pattern, rectangle, window};
use support::{BORDER, COLOUR, Compositor, Desktop, VM};

#[test]
fn the_desktop_sees_title_class_owner_type_and_sizes() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(v1::Window {
        application: "org.example.Editor".into(),
        title: "Notes\n\u{202e}evil".into(),
        size_hints: Some(v1::SizeHints {
            min_width: 100,
            min_height: 50,
            width_increment: 10,
            height_increment: 20,
            ..v1::SizeHints::default()
        }),
        ..window(1, 200, 150, 400, 300)
    });
    guest.configured(1, |_| true);
    guest.tell(v1::Window {
        kind: v1::WindowKind::Dialog.into(),
        transient_for: 1,
        modal: true,
        ..window(2, 300, 250, 200, 100)
    });
    guest.configured(2, |_| true);

    let (one, two) = (compositor.host(1), compositor.host(2));
    // Neither a second line nor text that runs backwards.
    let name = desktop.property(one, "_NET_WM_NAME");
    assert!(name.contains(&format!("[{VM}] Notes")) && name.contains("evil"), "{name}");
    assert!(!name.contains('\u{202e}'), "{name}");
    assert_eq!(
        desktop.property(one, "WM_CLASS"),
        "WM_CLASS(STRING) = \"org.macrohard.Test_20VM.instance\", \"org.macrohard.Test_20VM.org_2eexample_2eEditor\""
    );
    let list = desktop.run("wmctrl", &["-l", "-x"]);
    assert!(list.contains(&format!("[{VM}] window 2")), "{list}");
    let hints = desktop.property(one, "WM_NORMAL_HINTS");
    assert!(hints.contains("minimum size: 104 by 54"), "{hints}");
    assert!(hints.contains("resize increment: 10 by 20"), "{hints}");
    let owner = desktop.property(two, "WM_TRANSIENT_FOR");
    assert!(owner.ends_with(&format!("{one:#x}")), "{owner} is not {one:#x}");
    let kind = desktop.property(two, "_NET_WM_WINDOW_TYPE");
    assert!(kind.ends_with("_NET_WM_WINDOW_TYPE_DIALOG"), "{kind}");
    assert!(desktop.property(two, "_NET_WM_STATE").contains("_NET_WM_STATE_MODAL"));

    // Where the guest wants it, border included.
    let info = desktop.run("xwininfo", &["-id", &one.to_string()]);
    assert!(info.contains(&format!("Absolute upper-left X:  {}", 200 - BORDER)), "{info}");
    assert!(info.contains(&format!("Absolute upper-left Y:  {}", 150 - BORDER)), "{info}");
    assert!(info.contains("Width: 404"), "{info}");
    assert!(info.contains("Height: 304"), "{info}");
}

#[test]
fn windows_move_and_size_in_both_directions() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(window(1, 200, 150, 400, 300));
    let first = guest.configured(1, |_| true);
    assert_eq!(first.geometry, Some(rectangle(200, 150, 400, 300)));
    assert!(first.frame.unwrap().top > 0, "the window manager's frame is told: {first:?}");

    let host = compositor.host(1).to_string();
    desktop.run("xdotool", &["windowsize", "--sync", &host, "504", "354"]);
    guest.configured(1, |told| told.geometry.unwrap().width == 500);
    desktop.run("wmctrl", &["-i", "-r", &host, "-e", "10,302,222,-1,-1"]);
    let moved = guest.configured(1, |told| told.geometry.unwrap().x == 304);
    assert_eq!(moved.geometry, Some(rectangle(304, 224, 500, 350)));

    // A record from before the guest knew changes nothing.
    guest.tell(v1::Window { title: "late".into(), configured: 1, ..window(1, 0, 0, 50, 50) });
    desktop.until("the title", || {
        desktop.property(host.parse().unwrap(), "_NET_WM_NAME").contains("late").then_some(())
    });
    let shown = &compositor.windows()[0];
    assert_eq!((shown.position, shown.size), ([302, 222], [504, 354]));

    guest.tell(v1::Window { configured: moved.generation, ..window(1, 120, 90, 320, 240) });
    desktop.until("the guest's place and size", || {
        let shown = compositor.windows().remove(0);
        (shown.position == [118, 88] && shown.size == [324, 244]).then_some(())
    });
}

#[test]
fn pixels_on_the_screen_are_those_of_the_guest_inside_the_border() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(window(1, 200, 150, 120, 80));
    guest.configured(1, |_| true);
    let pixels = pattern(120, 80, 7);
    let span = guest.buffer(120, 80, &pixels);
    let present = guest.present(1, &span, 120, 80);
    guest.show(present);
    desktop.until("the pixels", || {
        (desktop.pixels(200, 150, 120, 80) == opaque(&pixels)).then_some(())
    });
    let [red, green, blue] = COLOUR;
    for (x, y, width, height) in
        [(198, 148, 124, 2), (198, 230, 124, 2), (198, 150, 2, 80), (320, 150, 2, 80)]
    {
        let border = desktop.pixels(x, y, width, height);
        assert!(border.iter().all(|pixel| *pixel == [blue, green, red]), "border at {x},{y}");
    }

    // Only what is said to have changed is taken.
    let mut changed = pattern(120, 80, 99);
    guest.draw(&span, 120, 80, &changed);
    let mut present = guest.present(1, &span, 120, 80);
    present.damage = vec![rectangle(10, 20, 30, 40)];
    guest.show(present);
    let mut expected = opaque(&pixels);
    for y in 20..60 {
        for x in 10..40 {
            expected[y * 120 + x] = opaque(&changed[(y * 120 + x) * 4..][..4])[0];
        }
    }
    desktop.until("the damage", || (desktop.pixels(200, 150, 120, 80) == expected).then_some(()));

    // The guest's writes after the answer are not shown, also when the window is drawn again.
    changed.fill(0);
    guest.draw(&span, 120, 80, &changed);
    let host = compositor.host(1).to_string();
    desktop.run("xdotool", &["windowunmap", "--sync", &host]);
    desktop.run("xdotool", &["windowmap", "--sync", &host]);
    desktop.until("the same pixels", || {
        let (_, _, shot) = compositor.screenshot(Some(1));
        let shot: Vec<[u8; 3]> = shot
            .chunks_exact(124 * 4)
            .skip(2)
            .take(80)
            .flat_map(|row| row[8..8 + 120 * 4].chunks_exact(4))
            .map(|pixel| [pixel[2], pixel[1], pixel[0]])
            .collect();
        assert_eq!(shot, expected);
        let place = compositor.windows().remove(0).position;
        (desktop.pixels(place[0] + 2, place[1] + 2, 120, 80) == expected).then_some(())
    });
}

#[test]
fn menus_are_at_their_place_without_a_frame_and_bordered() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(window(1, 200, 150, 300, 200));
    guest.configured(1, |_| true);
    guest.tell(menu(2, 1, 417, 303, 90, 120));
    guest.configured(2, |_| true);
    let pixels = pattern(90, 120, 3);
    let span = guest.buffer(90, 120, &pixels);
    let present = guest.present(2, &span, 90, 120);
    guest.show(present);
    desktop
        .until("the menu", || (desktop.pixels(417, 303, 90, 120) == opaque(&pixels)).then_some(()));
    let [red, green, blue] = COLOUR;
    assert_eq!(desktop.pixels(415, 301, 1, 1), [[blue, green, red]]);
    let host = compositor.host(2).to_string();
    let info = desktop.run("xwininfo", &["-id", &host, "-all"]);
    assert!(info.contains("Override Redirect State: yes"), "{info}");
    // It follows the guest's word.
    guest.insist(&desktop, &menu(2, 1, 600, 400, 90, 120), || {
        desktop.pixels(600, 400, 90, 120) == opaque(&pixels)
    });
    guest.say(from_guest::Message::Gone(v1::WindowGone { id: 2 }));
    desktop.until("its end", || (!desktop.has_window(host.parse().unwrap())).then_some(()));
}

#[test]
fn keys_and_clicks_reach_the_window_at_the_right_place() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    let shadow = v1::Extents { left: 20, right: 20, top: 10, bottom: 30 };
    guest.tell(v1::Window {
        shadow: Some(shadow),
        undecorated: true,
        alpha: true,
        ..window(1, 200, 150, 400, 300)
    });
    let told = guest.configured(1, |_| true);
    // Shadow included, as the guest counts.
    assert_eq!(told.geometry, Some(rectangle(200, 150, 400, 300)));
    desktop.activate(compositor.host(1));
    guest.expect(|message| {
        (*message == from_host::Message::Focus(v1::Focus { window: 1 })).then_some(())
    });
    desktop.run("xdotool", &["mousemove", "321", "234", "click", "1"]);
    let (x, y) = guest.expect(|message| match message {
        from_host::Message::Motion(motion) if motion.window == 1 => Some((motion.x, motion.y)),
        _ => None,
    });
    assert_eq!((x, y), ((321 - 200) * 256, (234 - 150) * 256));
    for pressed in [true, false] {
        let button = guest.expect(|message| match message {
            from_host::Message::Button(button) => Some(*button),
            _ => None,
        });
        assert_eq!((button.window, button.button, button.pressed), (1, 1, pressed));
    }
    desktop.run("xdotool", &["click", "5"]);
    let scroll = guest.expect(|message| match message {
        from_host::Message::Scroll(scroll) => Some(*scroll),
        _ => None,
    });
    assert_eq!((scroll.horizontal, scroll.vertical), (0, 120));
    desktop.run("xdotool", &["key", "shift+a"]);
    let mut keys = Vec::new();
    while keys.len() < 4 {
        keys.push(guest.expect(|message| match message {
            from_host::Message::Key(key) => Some((key.code, key.pressed)),
            _ => None,
        }));
    }
    // linux/input-event-codes.h: KEY_LEFTSHIFT 42, KEY_A 30.
    keys.sort_unstable();
    assert_eq!(keys, [(30, false), (30, true), (42, false), (42, true)]);

    // What is held when the keyboard goes elsewhere is released.
    desktop.run("xdotool", &["keydown", "b"]);
    guest.expect(|message| {
        matches!(message, from_host::Message::Key(key) if key.pressed).then_some(())
    });
    guest.tell(window(2, 700, 150, 100, 100));
    guest.configured(2, |_| true);
    desktop.activate(compositor.host(2));
    let released = guest.expect(|message| match message {
        from_host::Message::Key(key) => Some(*key),
        from_host::Message::Focus(focus) => panic!("{focus:?} before the key is released"),
        _ => None,
    });
    assert_eq!((released.window, released.code, released.pressed), (1, 48, false));
    guest.expect(|message| {
        (*message == from_host::Message::Focus(v1::Focus { window: 2 })).then_some(())
    });
    desktop.run("xdotool", &["keyup", "b"]);
}

#[test]
fn states_go_both_ways_and_a_window_closes_when_the_guest_says_so() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(window(1, 200, 150, 400, 300));
    guest.configured(1, |_| true);
    let id = compositor.host(1);
    let host = id.to_string();
    let state = |told: &v1::Configure| told.state.unwrap();

    desktop.run("wmctrl", &["-i", "-r", &host, "-b", "add,maximized_vert,maximized_horz"]);
    let told = guest.configured(1, |told| {
        state(told).maximized_vertically && told.geometry.unwrap().width > 1000
    });
    assert!(state(&told).maximized_horizontally);
    // The guest gives it up.
    guest.insist(&desktop, &window(1, 210, 160, 400, 300), || {
        !desktop.property(id, "_NET_WM_STATE").contains("MAXIMIZED")
    });

    let fullscreen = v1::WindowState { fullscreen: true, ..v1::WindowState::default() };
    let wish = v1::Window { state: Some(fullscreen), ..window(1, 210, 160, 400, 300) };
    // Not by itself: only after a key that the user has pressed in it.
    guest.tell(wish.clone());
    guest.settle();
    assert!(!desktop.property(id, "_NET_WM_STATE").contains("FULLSCREEN"));
    desktop.activate(id);
    desktop.run("xdotool", &["key", "f"]);
    guest.expect(|message| {
        matches!(message, from_host::Message::Key(key) if !key.pressed).then_some(())
    });
    guest.insist(&desktop, &wish, || desktop.property(id, "_NET_WM_STATE").contains("FULLSCREEN"));
    // The border with the VM's name stays. Size and place may come one after the other.
    let whole = Some(rectangle(2, 12, 1280 - 4, 800 - 14));
    guest.now_configured(1, |told| state(told).fullscreen && told.geometry == whole);
    desktop.until("the colour", || {
        let [red, green, blue] = COLOUR;
        (desktop.pixels(0, 0, 1, 1) == [[blue, green, red]]).then_some(())
    });
    let strip = desktop.pixels(0, 0, 200, 12);
    assert!(strip.contains(&[255; 3]), "the VM's name is on the border");
    // The user gets out, and the guest never sees the keys for it.
    desktop.activate(id);
    desktop.run("xdotool", &["key", "ctrl+alt+Return"]);
    let mut enter = false;
    guest.expect(|message| match message {
        from_host::Message::Key(key) => {
            enter |= key.code == 28;
            None
        }
        from_host::Message::Configure(told) if !state(told).fullscreen => Some(()),
        _ => None,
    });
    assert!(!enter);

    desktop.run("xdotool", &["windowminimize", "--sync", &host]);
    let told = guest.configured(1, |told| state(told).minimized);
    assert!(told.hidden);
    desktop.run("xdotool", &["windowactivate", &host]);
    let told = guest.configured(1, |told| !state(told).minimized && !told.hidden);
    let minimized = v1::WindowState { minimized: true, ..v1::WindowState::default() };
    let wish =
        v1::Window { state: Some(minimized), geometry: told.geometry, ..window(1, 0, 0, 1, 1) };
    guest.insist(&desktop, &wish, || desktop.property(id, "WM_STATE").contains("Iconic"));
    desktop.run("xdotool", &["windowactivate", &host]);
    guest.configured(1, |told| !state(told).minimized);

    desktop.run("wmctrl", &["-i", "-c", &host]);
    guest.expect(|message| {
        (*message == from_host::Message::Close(v1::CloseWindow { window: 1 })).then_some(())
    });
    // It is the guest's to close.
    assert!(desktop.has_window(id));
    guest.say(from_guest::Message::Gone(v1::WindowGone { id: 1 }));
    desktop.until("its end", || (!desktop.has_window(id)).then_some(()));
}

#[test]
fn a_window_takes_the_keyboard_only_when_it_was_launched_or_the_guest_has_it() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    let focus = |id| {
        move |message: &from_host::Message| {
            (*message == from_host::Message::Focus(v1::Focus { window: id })).then_some(())
        }
    };
    let own = desktop.own_window();
    desktop.activate(own);
    guest.tell(window(1, 200, 150, 100, 80));
    guest.configured(1, |told| !told.hidden);
    // It may have the keyboard, and has not.
    assert!(desktop.property(compositor.host(1), "_NET_WM_USER_TIME").ends_with("= 0"));
    assert_eq!(desktop.active(), own);
    // Nor by asking for it.
    for _ in 0..20 {
        guest.say(from_guest::Message::Raised(v1::WindowRaised { window: 1, activate: true }));
    }
    guest.settle();
    assert_eq!(desktop.active(), own);
    assert_eq!(compositor.status().refused["uncalled"], 20);

    compositor.sender.send(ToCompositor::Launched).unwrap();
    compositor.status();
    guest.tell(window(2, 400, 150, 100, 80));
    guest.expect(focus(2));
    let two = compositor.host(2);
    desktop.until("the keyboard", || (desktop.active() == two).then_some(()));
    // What the guest opens while it has the keyboard is the guest's affair.
    guest.tell(window(3, 600, 150, 100, 80));
    guest.expect(focus(3));
}

#[test]
fn cursors_of_any_name_end_nothing() {
    use x11rb::protocol::xfixes::ConnectionExt as _;
    let Some(desktop) = Desktop::new() else { return };
    // A theme with a file that is none.
    let cursors = desktop.folder().join("icons/default/cursors");
    std::fs::create_dir_all(&cursors).unwrap();
    std::fs::write(cursors.join("broken"), [7; 100]).unwrap();
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(window(1, 200, 150, 120, 80));
    guest.configured(1, |_| true);
    desktop.run("xdotool", &["mousemove", "230", "180"]);
    let picture = |name: String, width: u32| {
        let pixels = vec![255; (width * 8 * 4) as usize];
        let (height, hot_x, hot_y) = (8, 0, 0);
        from_guest::Message::Cursor(v1::Cursor { name, width, height, hot_x, hot_y, pixels })
    };
    // Of the X server's own font, of no theme, and more than are kept, each twice.
    for round in 0..2 {
        for number in 0..40 {
            for name in ["left_ptr", "xterm", "pirate", "default", "-", "__", "cursors", "icons"] {
                guest.say(picture(format!("{name}{}", ["", "x"][number % 2]), 8 + round));
            }
            guest.say(picture(format!("none-{number}"), 8 + round));
            guest.settle();
        }
    }
    desktop.x.xfixes_query_version(5, 0).unwrap().reply().unwrap();
    for (name, width) in [("of-no-theme", 23), ("broken", 25)] {
        guest.say(picture(name.into(), width));
        guest.settle();
        desktop.until("the picture", || {
            let cursor = desktop.x.xfixes_get_cursor_image().unwrap().reply().unwrap();
            (u32::from(cursor.width) == width).then_some(())
        });
    }
    assert!(compositor.status().guest);
}

#[test]
fn a_maximized_window_that_gives_up_its_shadow_fills_the_screen() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    let shadow = v1::Extents { left: 20, right: 20, top: 20, bottom: 20 };
    let first =
        v1::Window { shadow: Some(shadow), undecorated: true, ..window(1, 200, 150, 400, 300) };
    guest.tell(first.clone());
    guest.configured(1, |_| true);
    let host = compositor.host(1).to_string();
    desktop.run("wmctrl", &["-i", "-r", &host, "-b", "add,maximized_vert,maximized_horz"]);
    let told = guest.configured(1, |told| {
        told.state.unwrap().maximized_vertically && told.geometry.unwrap().width > 1280
    });
    // Without its shadow it is too large by that, and is told so.
    guest.tell(v1::Window {
        configured: told.generation,
        geometry: told.geometry,
        state: told.state,
        shadow: None,
        ..first
    });
    let told = guest.configured(1, |told| told.geometry.unwrap().width < 1280);
    assert_eq!(told.geometry.unwrap().width, 1276);
}

#[test]
fn what_belongs_to_a_window_that_is_opened_anew_belongs_to_it_still() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(window(1, 200, 150, 120, 80));
    guest.configured(1, |_| true);
    guest.tell(v1::Window { transient_for: 1, ..window(2, 400, 150, 100, 100) });
    guest.configured(2, |_| true);
    let pixels = pattern(120, 80, 7);
    let span = guest.buffer(120, 80, &pixels);
    let present = guest.present(1, &span, 120, 80);
    guest.show(present);
    let (before, child) = (compositor.host(1), compositor.host(2));
    // Alpha needs another window of the desktop.
    let alpha = v1::Window { alpha: true, ..window(1, 200, 150, 120, 80) };
    guest.insist(&desktop, &alpha, || !desktop.has_window(before));
    let after = compositor.host(1);
    desktop.until("the new owner", || {
        let owner = desktop.property(child, "WM_TRANSIENT_FOR");
        owner.ends_with(&format!("{after:#x}")).then_some(())
    });
    // The guest need not present again.
    desktop.until("the pixels", || {
        let place = compositor.windows()[0].position;
        (desktop.pixels(place[0] + 2, place[1] + 2, 120, 80) == opaque(&pixels)).then_some(())
    });
}

#[test]
fn cursor_icon_shape_and_alpha_are_the_guests() {
    use x11rb::protocol::shape::{self, ConnectionExt as _};
    use x11rb::protocol::xfixes::ConnectionExt as _;
    use x11rb::protocol::xproto::ConnectionExt as _;
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    guest.tell(v1::Window {
        shape: vec![rectangle(10, 10, 50, 40), rectangle(100, 0, 20, 80)],
        alpha: true,
        ..window(1, 200, 150, 120, 80)
    });
    guest.configured(1, |_| true);
    let host = compositor.host(1);
    let xid = u32::try_from(host).unwrap();
    let icon: Vec<u8> =
        (0..128_u8).flat_map(|number| [number, 2, 3, 255, number, 5, 6, 128]).collect();
    let (width, height) = (16, 16);
    let pixels = icon.clone();
    guest.say(from_guest::Message::Icon(v1::WindowIcon { window: 1, width, height, pixels }));
    let pixels: Vec<u8> = (0..24 * 24_u32).flat_map(|number| [number as u8, 40, 0, 255]).collect();
    guest.say(from_guest::Message::Cursor(v1::Cursor {
        name: String::new(),
        width: 24,
        height: 24,
        hot_x: 3,
        hot_y: 4,
        pixels: pixels.clone(),
    }));
    guest.settle();
    desktop.x.xfixes_query_version(5, 0).unwrap().reply().unwrap();
    desktop.run("xdotool", &["mousemove", "230", "180"]);
    let cursor = desktop.until("the guest's cursor", || {
        let cursor = desktop.x.xfixes_get_cursor_image().unwrap().reply().unwrap();
        (cursor.width == 24).then_some(cursor)
    });
    assert_eq!((cursor.height, cursor.xhot, cursor.yhot), (24, 3, 4));
    let seen: Vec<u8> = cursor.cursor_image.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    assert_eq!(seen, pixels);

    let atom = desktop.x.intern_atom(false, b"_NET_WM_ICON").unwrap().reply().unwrap().atom;
    let property =
        desktop.x.get_property(false, xid, atom, 6_u32, 0, 1000).unwrap().reply().unwrap();
    let numbers: Vec<u32> = property.value32().unwrap().collect();
    assert_eq!(numbers[..2], [16, 16]);
    let seen: Vec<u8> = numbers[2..].iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    assert_eq!(seen, icon);

    // The border and what there is of the window, both within it.
    desktop.x.shape_query_version().unwrap().reply().unwrap();
    let shape = desktop.x.shape_get_rectangles(xid, shape::SK::BOUNDING).unwrap().reply().unwrap();
    let has = |x: i16, y: i16| {
        shape.rectangles.iter().any(|part| {
            (part.x..part.x + part.width as i16).contains(&x)
                && (part.y..part.y + part.height as i16).contains(&y)
        })
    };
    assert!(has(0, 0) && has(123, 83) && has(1, 50), "{:?}", shape.rectangles);
    assert!(has(12, 12) && has(61, 51) && has(102, 2), "{:?}", shape.rectangles);
    assert!(!has(5, 5) && !has(80, 40), "{:?}", shape.rectangles);
    assert_eq!(desktop.x.get_geometry(xid).unwrap().reply().unwrap().depth, 32);
}

#[test]
fn the_guest_is_told_monitors_and_keyboard_and_their_changes() {
    let Some(desktop) = Desktop::new() else { return };
    if !support::have(&["xrandr", "setxkbmap", "xrdb"]) {
        return;
    }
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    let monitors = |message: &from_host::Message| match message {
        from_host::Message::Monitors(monitors) => Some(monitors.monitors.clone()),
        _ => None,
    };
    let first = guest.expect(monitors);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].geometry, Some(rectangle(0, 0, 1280, 800)));
    assert_eq!(first[0].scale, 100);
    desktop.run("xrandr", &["--setmonitor", "left", "640/100x800/100+0+0", "screen"]);
    desktop.run("xrandr", &["--setmonitor", "right", "640/100x800/100+640+0", "none"]);
    let two = guest.expect(|message| monitors(message).filter(|monitors| monitors.len() == 2));
    let mut places: Vec<_> = two.iter().map(|monitor| monitor.geometry.unwrap().x).collect();
    places.sort_unstable();
    assert_eq!(places, [0, 640]);

    let resources = desktop.folder().join("resources");
    std::fs::write(&resources, "Xft.dpi: 144\n").unwrap();
    desktop.run("xrdb", &["-merge", resources.to_str().unwrap()]);
    guest.expect(|message| {
        monitors(message)?.iter().all(|monitor| monitor.scale == 150).then_some(())
    });
    // A thicker border of the same window.
    guest.tell(window(1, 200, 150, 120, 80));
    guest.configured(1, |told| told.geometry == Some(rectangle(200, 150, 120, 80)));
    assert_eq!(compositor.windows()[0].size, [126, 86]);

    desktop
        .run("setxkbmap", &["-layout", "de", "-variant", "nodeadkeys", "-option", "caps:escape"]);
    let keyboard = guest.expect(|message| match message {
        from_host::Message::Keyboard(keyboard) if keyboard.layout == "de" => Some(keyboard.clone()),
        _ => None,
    });
    assert_eq!(
        (keyboard.variant.as_str(), keyboard.options.as_str()),
        ("nodeadkeys", "caps:escape")
    );
}

#[test]
fn where_no_window_has_a_title_the_border_says_the_name() {
    let bare = r#"<?xml version="1.0"?>
        <openbox_config xmlns="http://openbox.org/3.4/rc">
          <applications><application class="*"><decor>no</decor></application></applications>
        </openbox_config>"#;
    let Some(desktop) = Desktop::with(Some(bare)) else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    // The first one shows that there are no titles, and gives up room for the name; then it is known.
    for (id, height) in [(1, 70), (2, 80)] {
        let x = 100 + 300 * i32::try_from(id).unwrap();
        guest.tell(window(id, x, 150, 220, 80));
        guest.configured(id, |told| told.geometry.unwrap().height == height);
        let shown = compositor.windows().into_iter().find(|window| window.id == id).unwrap();
        assert_eq!(shown.size, [224, height + 14]);
        let pixels = pattern(220, height, 7);
        let span = guest.buffer(220, height, &pixels);
        let present = guest.present(id, &span, 220, height);
        guest.show(present);
        let [left, top] = shown.position;
        desktop.until("the pixels below the name", || {
            (desktop.pixels(left + 2, top + 12, 220, height) == opaque(&pixels)).then_some(())
        });
        let [red, green, blue] = COLOUR;
        let border = desktop.pixels(left, top, 224, 12);
        let inked = border.iter().filter(|pixel| **pixel != [blue, green, red]).count();
        assert!(inked > 50, "{inked} pixels of the name");
    }
}
