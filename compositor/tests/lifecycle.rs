//! Guests and daemons that come and go, both painters, and guests that want no good.

mod support;

use compositor_control::{Answer, Mode, Question, ToCompositor};
use proto::v1::{self, from_guest, from_host};
use support::guest::{Guest, menu, opaque, pattern, rectangle, window};
use support::{COLOUR, Compositor, Desktop};

/// A window with content at its place.
fn shown(desktop: &Desktop, guest: &mut Guest, id: u32, seed: u8) -> Vec<u8> {
    let x = 100 + 200 * i32::try_from(id).unwrap();
    guest.tell(window(id, x, 150, 120, 80));
    guest.configured(id, |_| true);
    let pixels = pattern(120, 80, seed);
    let span = guest.buffer(120, 80, &pixels);
    let present = guest.present(id, &span, 120, 80);
    guest.show(present);
    desktop
        .until("the pixels", || (desktop.pixels(x, 150, 120, 80) == opaque(&pixels)).then_some(()));
    pixels
}

#[test]
fn when_the_guest_goes_its_windows_go_and_the_next_one_has_its_own() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    shown(&desktop, &mut guest, 2, 2);
    let hosts = [compositor.host(1), compositor.host(2)];
    drop(guest);
    desktop.until("the end of the windows", || {
        (!hosts.iter().any(|host| desktop.has_window(*host))).then_some(())
    });
    assert!(!compositor.status().guest);

    // Another one takes the place of one that has not gone.
    let mut second = compositor.guest();
    shown(&desktop, &mut second, 1, 3);
    let mut third = compositor.guest();
    while second.hear().is_some() {}
    shown(&desktop, &mut third, 3, 4);
    assert_eq!(compositor.status().windows, 1);

    // Told again, and not told any longer.
    third.tell(window(4, 700, 300, 50, 50));
    third.configured(4, |_| true);
    third.say(from_guest::Message::Told(v1::Told {}));
    third.settle();
    assert_eq!(compositor.windows().iter().map(|window| window.id).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn a_new_daemon_finds_the_windows_and_the_last_one_ends_the_program() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    compositor.again();
    compositor.greet("Other name", [0x10, 0x20, 0xe0]);
    let windows = compositor.windows();
    assert_eq!(windows.len(), 1);
    desktop.until("the new name and colour", || {
        let named = compositor.windows()[0].title == "[Other name] window 1";
        (named && desktop.pixels(298, 148, 1, 1) == [[0xe0, 0x20, 0x10]]).then_some(())
    });
    // Without a guest and without a daemon there is nothing to do.
    compositor.sender.close();
    drop(guest);
    assert!(compositor.ended().success());
}

#[test]
fn the_vms_end_closes_all() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    let host = compositor.host(1);
    compositor.sender.send(ToCompositor::End).unwrap();
    assert!(compositor.ended().success());
    while guest.hear().is_some() {}
    desktop.until("the end of the window", || (!desktop.has_window(host)).then_some(()));
}

#[test]
fn in_desktop_mode_no_window_is_open_and_all_come_back() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    compositor.sender.send(ToCompositor::Mode(Mode::Desktop)).unwrap();
    let mode = |message: &from_host::Message| match message {
        from_host::Message::Mode(mode) => Some(mode.mode()),
        _ => None,
    };
    assert_eq!(guest.expect(mode), v1::WindowsMode::Desktop);
    assert_eq!(compositor.status().windows, 0);
    compositor.sender.send(ToCompositor::Mode(Mode::Seamless)).unwrap();
    assert_eq!(guest.expect(mode), v1::WindowsMode::Seamless);
    // What was presented meanwhile is asked for.
    guest.expect(|message| matches!(message, from_host::Message::Resync(_)).then_some(()));
    shown(&desktop, &mut guest, 1, 9);
}

/// All of a window as it is on the screen, by this compositor.
fn drawn(desktop: &Desktop, mut compositor: Compositor) -> (String, Vec<[u8; 3]>) {
    let mut guest = compositor.guest();
    guest.tell(v1::Window { undecorated: true, ..window(1, 300, 200, 200, 120) });
    guest.configured(1, |_| true);
    let first = pattern(200, 120, 5);
    let span = guest.buffer(200, 120, &first);
    let present = guest.present(1, &span, 200, 120);
    guest.show(present);
    let second = pattern(200, 120, 77);
    guest.draw(&span, 200, 120, &second);
    let mut present = guest.present(1, &span, 200, 120);
    present.damage = vec![rectangle(5, 7, 50, 60), rectangle(-5, 100, 20, 900)];
    guest.show(present);
    // Smaller than its window: the rest is border.
    guest.tell(menu(2, 1, 350, 400, 90, 70));
    guest.configured(2, |_| true);
    let span = guest.buffer(80, 60, &pattern(80, 60, 33));
    let present = guest.present(2, &span, 80, 60);
    guest.show(present);
    let mut expected = Vec::new();
    for id in [1, 2] {
        let (width, height, shot) = compositor.screenshot(Some(id));
        assert_eq!((width, height), if id == 1 { (204, 134) } else { (94, 74) });
        expected.extend(shot.chunks_exact(4).map(|pixel| [pixel[2], pixel[1], pixel[0]]));
    }
    let seen = desktop.until("what the screenshot has", || {
        let mut seen = desktop.pixels(298, 188, 204, 134);
        seen.extend(desktop.pixels(348, 398, 94, 74));
        (seen == expected).then_some(seen)
    });
    (compositor.status().renderer, seen)
}

#[test]
fn both_painters_put_the_same_on_the_screen() {
    let Some(desktop) = Desktop::new() else { return };
    let (_, software) = drawn(&desktop, Compositor::start(&desktop, "software"));
    if !std::path::Path::new("/usr/share/vulkan/icd.d").exists() {
        println!("SKIPPED: no Vulkan driver is installed (mesa-vulkan-drivers)");
        return;
    }
    for (name, other) in [("vulkan", "__EGL_VENDOR_LIBRARY_FILENAMES"), ("gl", "VK_DRIVER_FILES")] {
        let compositor = Compositor::start_as(&desktop, name, "gpu", |command| {
            command.env(other, "/nowhere");
            if name == "gl" {
                command.env("VK_ICD_FILENAMES", "/nowhere");
            }
        });
        let (renderer, gpu) = drawn(&desktop, compositor);
        assert!(renderer.contains(&format!("({name},")), "{renderer}");
        assert!(software == gpu, "{renderer} draws otherwise than the X server");
    }
}

#[test]
fn without_descriptors_pixels_go_over_the_connection_and_the_painter_stays() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    let painter = compositor.status().renderer;
    // One for the memory of the pixels, none to hand to the X server.
    let before = compositor.leave_descriptors(1);
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    assert_eq!(before, most, "it has raised its limit");
    shown(&desktop, &mut guest, 2, 2);
    // None at all: such a present is answered and not shown.
    compositor.leave_descriptors(0);
    guest.tell(window(3, 700, 150, 60, 40));
    guest.configured(3, |_| true);
    let span = guest.buffer(60, 40, &pattern(60, 40, 3));
    let present = guest.present(3, &span, 60, 40);
    guest.show(present);
    assert_eq!(compositor.status().renderer, painter);
    assert_eq!(compositor.status().windows, 3);
}

#[test]
fn walls_are_around_the_program_unless_it_is_told_otherwise() {
    let Some(desktop) = Desktop::new() else { return };
    // 2: with a filter (proc(5)).
    for (sandbox, filter) in [("on", "2"), ("off", "0")] {
        let mut compositor = Compositor::start_as(&desktop, sandbox, "software", |command| {
            command.args(["--sandbox", sandbox]);
        });
        let mut guest = compositor.guest();
        shown(&desktop, &mut guest, 1, 1);
        assert_eq!(compositor.fact("Seccomp"), filter);
        assert_eq!(compositor.fact("NoNewPrivs"), if sandbox == "on" { "1" } else { "0" });
    }
}

#[test]
fn nothing_runs_while_nothing_changes() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    // A tick is a hundredth of a second. The window manager may have its own to say at first.
    desktop.until("rest", || {
        let before = compositor.ticks();
        std::thread::sleep(std::time::Duration::from_secs(2));
        (compositor.ticks() == before).then_some(())
    });
}

#[test]
fn without_a_gpu_of_hardware_the_x_server_draws() {
    let Some(desktop) = Desktop::new() else { return };
    if std::path::Path::new("/dev/dri").exists() {
        println!("SKIPPED: this machine may have a GPU");
        return;
    }
    let mut compositor = Compositor::start(&desktop, "auto");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    assert_eq!(compositor.status().renderer, "software (MIT-SHM)");
}

#[test]
fn a_hostile_guest_gets_its_own_windows_and_no_more() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    let honest = shown(&desktop, &mut guest, 1, 1);

    // Sizes and places beyond all limits.
    for (index, (x, y, width, height)) in
        [(0, 0, 0, 0), (i32::MIN, i32::MAX, u32::MAX, 1), (-500, -500, 65535, 65535)]
            .into_iter()
            .enumerate()
    {
        let id = 10 + u32::try_from(index).unwrap();
        guest.tell(v1::Window {
            title: "\u{202e}".repeat(100_000),
            size_hints: Some(v1::SizeHints {
                min_width: u32::MAX,
                max_width: 1,
                width_increment: u32::MAX,
                base_height: u32::MAX,
                ..v1::SizeHints::default()
            }),
            shape: vec![rectangle(-5, -5, u32::MAX, u32::MAX); 256],
            shadow: Some(v1::Extents {
                left: u32::MAX / 2,
                right: 1,
                top: 7,
                bottom: u32::MAX / 2,
            }),
            opacity: u32::MAX,
            kind: 12345,
            ..window(id, x, y, width, height)
        });
        guest.say(from_guest::Message::Gone(v1::WindowGone { id }));
    }
    // Owners in a circle.
    guest.tell(v1::Window { transient_for: 21, ..window(20, 500, 500, 60, 60) });
    guest.tell(v1::Window { transient_for: 20, ..window(21, 520, 520, 60, 60) });
    guest.tell(v1::Window { transient_for: 22, ..window(22, 540, 540, 60, 60) });
    // A picture of the desktop over the desktop, at once and in halves.
    guest.tell(menu(30, 1, 0, 0, 1280, 800));
    guest.tell(menu(31, 1, 0, 400, 1280, 400));
    guest.tell(menu(32, 1, 0, 0, 1280, 400));
    // Pixels that are nowhere, and damage beyond them.
    let span = guest.buffer(120, 80, &pattern(120, 80, 200));
    let good = guest.present(1, &span, 120, 80);
    for (offset, stride, width, height) in [
        (u64::MAX - 63, 480, 120, 80),
        (64 << 20, 480, 120, 80),
        (0, 4, 120, 80),
        (0, 480, 0, 80),
        (1, 480, 120, 80),
        (0, 1 << 17, 16384, 16384),
    ] {
        let bad = guest.present(1, &span, width, height);
        guest.show(v1::Present { offset, stride, ..bad });
    }
    // It was before those in sequence: too late.
    guest.say(from_guest::Message::Present(good));
    // A flood without waiting; each answer is to one that was taken.
    for _ in 0..2000 {
        let mut present = guest.present(20, &span, 120, 80);
        present.damage = vec![rectangle(-10, -10, u32::MAX, u32::MAX); 65];
        guest.say(from_guest::Message::Present(present));
    }
    // Cursors, icons, bells, wishes.
    for number in 0..500_u32 {
        let pixels = vec![255; (16 * 16 * 4) as usize];
        guest.say(from_guest::Message::Cursor(v1::Cursor {
            name: "../../etc".repeat(number as usize % 2),
            width: 16,
            height: 16,
            hot_x: u32::MAX,
            hot_y: 5,
            pixels,
        }));
        guest.say(from_guest::Message::Icon(v1::WindowIcon {
            window: 1,
            width: number,
            height: u32::MAX,
            pixels: vec![0; 40],
        }));
        guest.say(from_guest::Message::Bell(v1::Bell {}));
        guest.say(from_guest::Message::MoveResize(v1::MoveResize {
            window: 1,
            direction: 9,
            button: 1,
        }));
        guest.say(from_guest::Message::Raised(v1::WindowRaised { window: number, activate: true }));
    }
    guest.settle();
    let status = compositor.status();
    for reason in [
        "geometry",
        "title",
        "hints",
        "shape",
        "shadow",
        "circle",
        "cover",
        "picture",
        "sequence",
        "present-flood",
        "damage",
        "cursor",
        "icon",
        "bell",
        "uncalled",
        "unknown-window",
    ] {
        assert!(status.refused.get(reason).is_some_and(|count| *count > 0), "{reason}: {status:?}");
    }

    // More windows than are allowed: small ones, off the others.
    for id in 1000..11_000 {
        guest.tell(menu(id, 0, 1200, 700, 2, 2));
    }
    guest.settle();
    let status = compositor.status();
    assert!(status.windows <= 500, "{status:?}");
    assert!(status.refused["window-count"] >= 9_500, "{status:?}");
    for id in 1000..1600 {
        guest.say(from_guest::Message::Gone(v1::WindowGone { id }));
    }
    guest.settle();

    // The honest window is as it was, here and on the screen.
    let place = compositor.windows().into_iter().find(|window| window.id == 1).unwrap().position;
    desktop.run("xdotool", &["windowraise", &compositor.host(1).to_string()]);
    desktop.until("the first window's pixels", || {
        (desktop.pixels(place[0] + 2, place[1] + 2, 120, 80) == opaque(&honest)).then_some(())
    });
    let [red, green, blue] = COLOUR;
    assert_eq!(desktop.pixels(place[0], place[1], 1, 1), [[blue, green, red]]);

    // What is no message ends the connection, and nothing else.
    guest.bytes(&[0xff; 64]).unwrap();
    while guest.hear().is_some() {}
    let mut next = compositor.guest();
    shown(&desktop, &mut next, 1, 2);
    assert_eq!(compositor.status().windows, 1);

    // One that does not begin with a hello, and one of another version.
    for first in [
        from_guest::Message::Window(window(1, 0, 0, 10, 10)),
        from_guest::Message::Hello(v1::WindowsHello { version: 2, ..v1::WindowsHello::default() }),
    ] {
        let mut wrong = compositor.silent_guest();
        wrong.say(first);
        while wrong.hear().is_some() {}
    }
    assert!(!compositor.status().guest);
}

#[test]
fn what_is_not_there_is_not_pictured() {
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    for window in [None, Some(1)] {
        let Answer::Refused { message } = compositor.ask(Question::Screenshot { window }) else {
            panic!("there is a picture of nothing");
        };
        assert!(message.contains("open"), "{message}");
    }
    let mut guest = compositor.guest();
    let one = shown(&desktop, &mut guest, 1, 1);
    shown(&desktop, &mut guest, 2, 2);
    let (width, height, pixels) = compositor.screenshot(None);
    assert_eq!((width, height), (324, 84));
    // Between both windows there is nothing.
    assert_eq!(pixels[(10 * 324 + 160) * 4..][..4], [0; 4]);
    assert_eq!(pixels[(2 * 324 + 2) * 4..][..3], [one[2], one[1], one[0]]);
}

/// Hands on what a viewer says.
struct Seat(std::sync::mpsc::Sender<display::FromViewer>);

impl display::Seat for Seat {
    fn take(&mut self, said: display::FromViewer) {
        // The test may have heard enough.
        let _ = self.0.send(said);
    }
}

fn connect(path: &std::path::Path) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn in_desktop_mode_the_guests_screen_is_one_window() {
    use display::{FromViewer, Rectangle, Scanout, Size};
    let Some(desktop) = Desktop::new() else { return };
    let mut compositor = Compositor::start(&desktop, "software");
    let mut guest = compositor.guest();
    shown(&desktop, &mut guest, 1, 1);
    let path = desktop.folder().join("display");
    let (sender, said) = std::sync::mpsc::channel();
    let shared = display::Display::new().unwrap();
    let mut screen = shared.screen();
    let size = Size::new(320, 200).unwrap();
    screen.configure(Some(size)).unwrap();
    let mut paint = |pixels: &[u8], area: Rectangle| {
        screen.paint(area, &mut |y, x, row| {
            let start = ((y * 320 + x) * 4) as usize;
            row.copy_from_slice(&pixels[start..start + row.len()]);
        });
    };
    let first = pattern(320, 200, 11);
    paint(&first, size.whole());
    let server = display::Server::start(&shared, &path, Box::new(Seat(sender))).unwrap();
    compositor.sender.send(ToCompositor::Display { connection: connect(&path) }).unwrap();
    // Not before it is wanted.
    assert_eq!(compositor.status().windows, 1);
    compositor.sender.send(ToCompositor::Mode(Mode::Desktop)).unwrap();

    let place = desktop.until("the screen's window", || {
        let window = compositor.windows().into_iter().find(|window| window.id == 0)?;
        let place = (window.position[0] + 2, window.position[1] + 2);
        let id = window.host.to_string();
        (desktop.pixels(place.0, place.1, 320, 200) == opaque(&first)).then_some((place, id))
    });
    let ((x, y), id) = place;
    let class = desktop.property(id.parse().unwrap(), "WM_CLASS");
    assert!(class.ends_with("\"screen\", \"org.macrohard.Test_20VM.screen\""), "{class}");
    // Damage only.
    let second = pattern(320, 200, 70);
    let area = Rectangle { x: 30, y: 40, width: 50, height: 60 };
    paint(&second, area);
    let mut expected = opaque(&first);
    for row in 40..100 {
        for column in 30..80 {
            expected[row * 320 + column] = opaque(&second[(row * 320 + column) * 4..][..4])[0];
        }
    }
    desktop.until("the damage", || (desktop.pixels(x, y, 320, 200) == expected).then_some(()));
    let (width, height, _) = compositor.screenshot(None);
    assert_eq!((width, height), (324, 204));

    // Input goes to the screen and not to the guest's windows.
    desktop.activate(id.parse().unwrap());
    let (left, top) = ((x + 319).to_string(), (y + 100).to_string());
    desktop.run("xdotool", &["mousemove", &left, &top, "click", "3", "key", "a"]);
    let mut heard = Vec::new();
    while heard.len() < 4 {
        match said.recv().unwrap() {
            FromViewer::Button { code, pressed } => heard.push((code, pressed)),
            FromViewer::Key { code, pressed } => heard.push((code, pressed)),
            FromViewer::Pointer { x: 32767, y } => assert_eq!(y, (100 * 32767 / 199) as u16),
            _ => {}
        }
    }
    // BTN_RIGHT and KEY_A of linux/input-event-codes.h.
    assert_eq!(heard, [(0x111, true), (0x111, false), (30, true), (30, false)]);

    // The size of the window is that of the guest's screen.
    desktop.run("xdotool", &["windowsize", &id, "504", "404"]);
    let wished = Size::new(500, 400).unwrap();
    while !matches!(said.recv().unwrap(), FromViewer::Resize { size, .. } if size == wished) {}

    compositor.sender.send(ToCompositor::Mode(Mode::Seamless)).unwrap();
    guest.expect(|message| matches!(message, from_host::Message::Resync(_)).then_some(()));
    shown(&desktop, &mut guest, 1, 9);
    compositor.sender.send(ToCompositor::Mode(Mode::Desktop)).unwrap();
    desktop.until("the window again", || (compositor.status().windows == 1).then_some(()));
    // Damage that came while there was no window was acknowledged: a frame of another size comes.
    screen.configure(Size::new(160, 120)).unwrap();
    desktop.until("the new size", || {
        let size = compositor.windows().into_iter().find(|window| window.id == 0)?.size;
        (size == [164, 124]).then_some(())
    });
    // When the VM process goes, so does the window.
    drop(server);
    desktop.until("its end", || (compositor.status().windows == 0).then_some(()));
}

#[test]
fn a_guest_that_floods_holds_up_neither_its_own_windows_nor_those_of_others() {
    let Some(desktop) = Desktop::new() else { return };
    let mut flooded = Compositor::start_as(&desktop, "flooded", "software", |_| {});
    let mut flooding = flooded.guest();
    shown(&desktop, &mut flooding, 1, 1);
    let pixels = shown(&desktop, &mut flooding, 2, 2);
    let mut other = Compositor::start(&desktop, "software");
    let mut normal = other.guest();
    shown(&desktop, &mut normal, 3, 3);

    // A present and a long title in turn: both take the compositor longer than to be sent.
    let span = flooding.buffer(120, 80, &pattern(120, 80, 90));
    let first = flooding.present(1, &span, 120, 80);
    let start = flooding.generation();
    let flood = flooding.flood(move |number| {
        if number % 2 == 0 {
            let sequence = first.sequence + number;
            return from_guest::Message::Present(v1::Present { sequence, ..first.clone() });
        }
        let title = format!("{number}{}", "\u{202e}\u{7}".repeat(10_000));
        let generation = start + number;
        from_guest::Message::Window(v1::Window {
            generation,
            title,
            ..window(1, 300, 150, 120, 80)
        })
    });
    desktop.until("the flood", || (flood.said() > 2000).then_some(()));
    for round in 0..5_u8 {
        let before = flood.said();
        // What the flooding guest shows is drawn, and so is its other window when it has been spoiled.
        desktop.until("the flood's pixels", || {
            (desktop.pixels(300, 150, 120, 80) == opaque(&pattern(120, 80, 90))).then_some(())
        });
        let host = flooded.host(2);
        desktop.spoil(host);
        desktop.expose(host);
        desktop.until("the other window's pixels", || {
            (desktop.pixels(500, 150, 120, 80) == opaque(&pixels)).then_some(())
        });
        // Another VM's window shows what it presents.
        let shows = pattern(120, 80, 100 + round);
        let span = normal.buffer(120, 80, &shows);
        let present = normal.present(3, &span, 120, 80);
        normal.show(present);
        desktop.until("the normal guest's pixels", || {
            (desktop.pixels(700, 150, 120, 80) == opaque(&shows)).then_some(())
        });
        desktop.until("more of the flood", || (flood.said() > before).then_some(()));
    }
    drop(flood);
    let status = flooded.status();
    assert!(status.guest, "it was not disconnected for it");
    assert!(status.refused["present-flood"] > 500, "{status:?}");
}
