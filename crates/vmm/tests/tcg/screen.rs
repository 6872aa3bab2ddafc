//! A real Linux with a screen: its own drivers of virtio-gpu and virtio-input, and a viewer at the
//! VM's display socket.

use crate::linux::{booted, enter, load_drivers};
use crate::vm::Vm;
use display::{Event, FromViewer, Picture, Size, Viewer};
use std::time::{Duration, Instant};

/// Far longer than the slowest step of a guest on this engine takes.
const PATIENCE: Duration = Duration::from_secs(120);

const KEY_A: u16 = 30;
const KEY_CAPSLOCK: u16 = 58;
const BTN_LEFT: u16 = 0x110;

fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).unwrap()
}

/// Looks until what is shown is as wanted.
fn until(viewer: &mut Viewer, what: &str, wanted: impl Fn(&Event, Option<&Picture>) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = viewer.wait(deadline).unwrap();
        let event = event.unwrap_or_else(|| panic!("the guest never showed {what}"));
        let picture = viewer.frame().map(Picture::of);
        if matches!(event, Event::Damaged(_)) {
            viewer.acknowledge().unwrap();
        }
        if wanted(&event, picture.as_ref()) {
            return;
        }
    }
}

/// Pixels that are not black.
fn lit(picture: &Picture) -> usize {
    picture.rgb().chunks(3).filter(|pixel| *pixel != [0; 3]).count()
}

fn connect(vm: &Vm) -> Viewer {
    Viewer::connect(&vm.folder.path().join("display.sock")).unwrap()
}

#[test]
fn linux_shows_its_console_follows_the_window_and_hears_keys_and_pointer() {
    let Some(mut vm) = booted("[display]\nwidth = 1024\nheight = 768\n") else {
        return;
    };
    load_drivers(&mut vm);
    enter(&mut vm, "test -c /dev/dri/card0 && echo the-card-is-$((6*7))");
    assert!(vm.text().contains("the-card-is-42"), "{}", vm.text());
    let mut viewer = connect(&vm);

    // The kernel's console takes the screen with the first thing it shows.
    enter(&mut vm, "printf '\\033[2J\\033[H\\033[?25lone line' >/dev/tty0");
    let whole = size(1024, 768);
    until(&mut viewer, "its console", |_, picture| {
        picture.is_some_and(|picture| picture.size() == whole && lit(picture) > 20)
    });
    let before = Picture::of(viewer.frame().unwrap());
    enter(&mut vm, "printf '\\nand another, which is longer' >/dev/tty0");
    until(&mut viewer, "another line", |_, picture| {
        picture.is_some_and(|picture| lit(picture) > lit(&before))
    });
    let path = vm.folder.path().join("display.sock");
    let screenshot = Viewer::screenshot(&path, PATIENCE).unwrap();
    assert!(screenshot != before && screenshot.size() == whole);
    assert!(screenshot.to_png().unwrap().starts_with(b"\x89PNG"));

    // A window of another size.
    let smaller = size(800, 600);
    viewer.send(FromViewer::Resize { size: smaller, width_mm: 0, height_mm: 0 }).unwrap();
    until(&mut viewer, "the new size", |event, _| *event == Event::Configured(Some(smaller)));
    enter(&mut vm, "echo mode $(head -n 1 /sys/class/drm/card0-Virtual-1/modes)");
    assert!(vm.text().contains("mode 800x600"), "{}", vm.text());

    hears(&mut vm, &viewer);
    // Caps Lock, which the kernel's console lights.
    for pressed in [true, false] {
        viewer.send(FromViewer::Key { code: KEY_CAPSLOCK, pressed }).unwrap();
    }
    until(&mut viewer, "the lamp of Caps Lock", |event, _| *event == Event::Leds(2));
    vm.life.quit().unwrap();
}

fn hears(vm: &mut Vm, viewer: &Viewer) {
    let line = b"lab-tool input-events 6; echo heard-$((6*7))\n";
    assert_eq!(vm.console.offer_input(line), line.len());
    vm.wait_for("listening to", 1);
    for said in [
        FromViewer::Key { code: KEY_A, pressed: true },
        FromViewer::Key { code: KEY_A, pressed: false },
        FromViewer::Pointer { x: 16384, y: 8192 },
        FromViewer::Button { code: BTN_LEFT, pressed: true },
        FromViewer::Button { code: BTN_LEFT, pressed: false },
        FromViewer::Wheel { vertical: -120, horizontal: 60 },
    ] {
        viewer.send(said).unwrap();
    }
    vm.wait_for("heard-42", 1);
    let text = vm.text();
    for event in [
        "keyboard 1 30 1",
        "keyboard 1 30 0",
        "pointer 3 0 16384",
        "pointer 3 1 8192",
        "pointer 1 272 1",
        "pointer 1 272 0",
        "pointer 2 11 -120",
        "pointer 2 8 -1",
        "pointer 2 12 60",
    ] {
        assert!(text.contains(&format!("Macrohard {event}")), "{event} in {text}");
    }
}
