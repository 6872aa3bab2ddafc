//! Both ends of the socket, as they work together and as they break the rules.

use crate::{
    CursorImage, Display, Event, FromViewer, MOST_VIEWERS, Picture, Rectangle, Scanout, Screen,
    Seat, Server, Size, ToViewer, Viewer, ViewerError, packet,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SocketFlags, accept_with};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Told(Sender<FromViewer>);

impl Seat for Told {
    fn take(&mut self, said: FromViewer) {
        self.0.send(said).unwrap();
    }
}

struct Vm {
    path: PathBuf,
    display: Display,
    screen: Screen,
    heard: Receiver<FromViewer>,
    server: Option<Server>,
    _folder: tempfile::TempDir,
}

impl Vm {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("display.sock");
        std::fs::write(&path, "left over").unwrap();
        let display = Display::new().unwrap();
        let (tell, heard) = channel();
        let server = Some(Server::start(&display, &path, Box::new(Told(tell))).unwrap());
        Self { path, screen: display.screen(), display, heard, server, _folder: folder }
    }

    fn hears(&self) -> FromViewer {
        self.heard.recv_timeout(PATIENCE).unwrap()
    }

    fn paint(&mut self, area: Rectangle, value: u8) {
        self.screen.paint(area, &mut |_, _, row| row.fill(value));
    }
}

fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).unwrap()
}

/// Takes events until one is this.
fn until(viewer: &mut Viewer, wanted: impl Fn(&Event) -> bool) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = viewer.wait(deadline).unwrap().expect("an event in time");
        if wanted(&event) {
            return event;
        }
    }
}

fn is_damage(event: &Event) -> bool {
    matches!(event, Event::Damaged(_))
}

#[test]
fn a_viewer_is_told_everything_that_is_and_then_everything_that_changes() {
    let mut vm = Vm::new();
    vm.screen.configure(Some(size(64, 32))).unwrap();
    vm.paint(size(64, 32).whole(), 0x11);
    let image = CursorImage { size: size(2, 2), hot_x: 1, hot_y: 1, pixels: vec![3; 16] };
    vm.screen.set_cursor(Some(image.clone()));
    vm.screen.move_cursor(-3, 9);
    vm.display.leds().set(2);
    let mut viewer = Viewer::connect(&vm.path).unwrap();
    let mut seen = Vec::new();
    until(&mut viewer, is_damage);
    let again = &mut Viewer::connect(&vm.path).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < 5 {
        seen.push(again.wait(deadline).unwrap().unwrap());
    }
    assert_eq!(seen[0], Event::Configured(Some(size(64, 32))));
    for event in [
        Event::Leds(2),
        Event::Cursor(Some(image)),
        Event::CursorPosition { x: -3, y: 9 },
        Event::Damaged([size(64, 32).whole()].into_iter().collect()),
    ] {
        assert!(seen.contains(&event), "{event:?} in {seen:?}");
    }
    assert_eq!(Picture::of(again.frame().unwrap()).pixel(63, 31), Some([0x11; 3]));

    vm.screen.set_cursor(None);
    assert_eq!(until(again, |e| matches!(e, Event::Cursor(_))), Event::Cursor(None));
    again.acknowledge().unwrap();
    vm.screen.configure(None).unwrap();
    assert_eq!(until(again, |e| matches!(e, Event::Configured(_))), Event::Configured(None));
    assert!(again.frame().is_none());
}

#[test]
fn damage_waits_for_the_acknowledgement_and_is_merged_meanwhile() {
    let mut vm = Vm::new();
    vm.screen.configure(Some(size(100, 100))).unwrap();
    let mut viewer = Viewer::connect(&vm.path).unwrap();
    until(&mut viewer, is_damage);
    let part = |x| Rectangle { x, y: 5, width: 1, height: 1 };
    vm.paint(part(1), 1);
    vm.paint(part(2), 2);
    // Outside: nothing changes.
    vm.paint(part(100), 3);
    vm.screen.move_cursor(1, 1);
    until(&mut viewer, |event| {
        assert!(!is_damage(event), "not acknowledged yet");
        matches!(event, Event::CursorPosition { x: 1, .. })
    });
    viewer.acknowledge().unwrap();
    let damage = [part(1), part(2)].into_iter().collect();
    assert_eq!(until(&mut viewer, is_damage), Event::Damaged(damage));
    assert_eq!(Picture::of(viewer.frame().unwrap()).pixel(2, 5), Some([2; 3]));
}

#[test]
fn a_new_size_is_a_new_frame_and_the_old_one_stays_readable() {
    let mut vm = Vm::new();
    vm.screen.configure(Some(size(10, 10))).unwrap();
    vm.paint(size(10, 10).whole(), 9);
    let mut viewer = Viewer::connect(&vm.path).unwrap();
    until(&mut viewer, is_damage);
    vm.screen.configure(Some(size(20, 5))).unwrap();
    assert_eq!(Picture::of(viewer.frame().unwrap()).pixel(9, 9), Some([9; 3]));
    viewer.acknowledge().unwrap();
    until(&mut viewer, |event| *event == Event::Configured(Some(size(20, 5))));
    until(&mut viewer, is_damage);
    assert_eq!(Picture::of(viewer.frame().unwrap()).pixel(19, 4), Some([0; 3]));
    viewer.acknowledge().unwrap();
    // Too large: nothing is shown.
    vm.screen.configure(Some(size(16384, 16384))).unwrap_err();
    until(&mut viewer, |event| *event == Event::Configured(None));
}

#[test]
fn a_viewer_that_is_busy_is_sent_no_second_frame_and_then_only_the_newest() {
    let mut vm = Vm::new();
    vm.screen.configure(Some(size(10, 10))).unwrap();
    let mut busy = Viewer::connect(&vm.path).unwrap();
    until(&mut busy, is_damage);
    // Told after the busy one of each frame: what it has heard, the other was sent or never will be.
    let mut quick = Viewer::connect(&vm.path).unwrap();
    until(&mut quick, is_damage);
    quick.acknowledge().unwrap();
    let frames = |side: u32| {
        let change = if side.is_multiple_of(10) { None } else { Some(size(side, 5)) };
        (change, Event::Configured(change))
    };
    for side in 1..=99 {
        let (change, told) = frames(side);
        vm.screen.configure(change).unwrap();
        until(&mut quick, |event| *event == told);
        if change.is_some() {
            until(&mut quick, is_damage);
            quick.acknowledge().unwrap();
        }
    }
    let mut sent = Vec::new();
    while let Some(event) = busy.event().unwrap() {
        if matches!(event, Event::Configured(_) | Event::Damaged(_)) {
            sent.push(event);
        }
    }
    assert_eq!(sent, [], "the first frame is not acknowledged");
    busy.acknowledge().unwrap();
    let newest = until(&mut busy, |event| matches!(event, Event::Configured(_)));
    assert_eq!(newest, Event::Configured(Some(size(99, 5))));
    until(&mut busy, is_damage);

    // An acknowledgement of an earlier frame, or a second one, sets nothing free.
    vm.screen.configure(Some(size(7, 7))).unwrap();
    busy.send(FromViewer::Acknowledge { serial: 0 }).unwrap();
    busy.send(FromViewer::Pointer { x: 1, y: 1 }).unwrap();
    assert_eq!(vm.hears(), FromViewer::Pointer { x: 1, y: 1 });
    until(&mut quick, |event| *event == Event::Configured(Some(size(7, 7))));
    vm.display.leds().set(5);
    until(&mut busy, |event| {
        assert!(!matches!(event, Event::Configured(_)), "not acknowledged yet");
        *event == Event::Leds(5)
    });
    busy.acknowledge().unwrap();
    until(&mut busy, |event| *event == Event::Configured(Some(size(7, 7))));
}

#[test]
fn a_frame_that_is_gone_before_its_damage_was_sent_is_acknowledged_all_the_same() {
    let display = Display::new().unwrap();
    let shared = display.shared();
    let mut screen = display.screen();
    screen.configure(Some(size(10, 10))).unwrap();
    shared.add_viewer(1);
    let mut said = Vec::new();
    let next = || shared.next(1).map(|(message, memory)| (message, memory.is_some()));
    assert_eq!(next(), Some((ToViewer::Hello { version: 1 }, false)));
    let Some((ToViewer::Configure { serial, .. }, true)) = next() else { panic!("no frame") };
    screen.configure(None).unwrap();
    screen.configure(Some(size(5, 5))).unwrap();
    while let Some((message, memory)) = next() {
        assert!(!memory, "a second frame: {message:?}");
        said.push(message);
    }
    let whole = [size(10, 10).whole()].into_iter().collect();
    assert_eq!(said[0], ToViewer::Damage { serial, damage: whole });
    shared.acknowledge(1, serial);
    let Some((ToViewer::Configure { size: shown, .. }, true)) = next() else { panic!("no frame") };
    assert_eq!(shown, Some(size(5, 5)));
}

#[test]
fn what_a_viewer_says_arrives_and_what_it_held_is_let_go_when_it_leaves() {
    let vm = Vm::new();
    let viewer = Viewer::connect(&vm.path).unwrap();
    let key = |code, pressed| FromViewer::Key { code, pressed };
    let button = |code, pressed| FromViewer::Button { code, pressed };
    let resize = FromViewer::Resize { size: size(800, 600), width_mm: 0, height_mm: 0 };
    let words = [
        resize,
        key(30, true),
        key(42, true),
        key(30, false),
        button(0x110, true),
        FromViewer::Pointer { x: 5, y: 6 },
        FromViewer::Wheel { vertical: 120, horizontal: 0 },
    ];
    for word in words {
        viewer.send(word).unwrap();
        assert_eq!(vm.hears(), word);
    }
    drop(viewer);
    assert_eq!([vm.hears(), vm.hears()], [key(42, false), button(0x110, false)]);
}

#[test]
fn what_a_viewer_says_arrives_also_when_it_leaves_at_once() {
    let vm = Vm::new();
    for code in 1..50 {
        let viewer = Viewer::connect(&vm.path).unwrap();
        viewer.send(FromViewer::Key { code, pressed: true }).unwrap();
        drop(viewer);
        assert_eq!(vm.hears(), FromViewer::Key { code, pressed: true });
        assert_eq!(vm.hears(), FromViewer::Key { code, pressed: false });
    }
}

#[test]
fn a_viewer_that_breaks_the_rules_is_cut_off_and_the_others_stay() {
    let mut vm = Vm::new();
    vm.screen.configure(Some(size(8, 8))).unwrap();
    let mut good = Viewer::connect(&vm.path).unwrap();
    let bad: [&[u8]; 4] = [b"?", &[9; 400], &[0; 20], &[7; 40_000]];
    for bytes in bad {
        let mut viewer = Viewer::connect(&vm.path).unwrap();
        packet::send(viewer.as_fd(), bytes, None).unwrap();
        closed(&mut viewer);
    }
    let mut viewer = Viewer::connect(&vm.path).unwrap();
    let file = memfd_create("gift", MemfdFlags::CLOEXEC).unwrap();
    let key = FromViewer::Key { code: 1, pressed: true }.encode();
    packet::send(viewer.as_fd(), &key, Some(file.as_fd())).unwrap();
    closed(&mut viewer);
    until(&mut good, is_damage);
    good.send(FromViewer::Pointer { x: 1, y: 1 }).unwrap();
    assert_eq!(vm.hears(), FromViewer::Pointer { x: 1, y: 1 });
}

fn closed(viewer: &mut Viewer) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match viewer.wait(deadline) {
            Ok(Some(_)) => {}
            Err(ViewerError::Closed) => return,
            other => panic!("not cut off: {other:?}"),
        }
    }
}

#[test]
fn one_viewer_too_many_is_turned_away() {
    let mut vm = Vm::new();
    vm.screen.configure(Some(size(8, 8))).unwrap();
    let mut viewers: Vec<Viewer> =
        (0..MOST_VIEWERS).map(|_| Viewer::connect(&vm.path).unwrap()).collect();
    for viewer in &mut viewers {
        until(viewer, is_damage);
    }
    closed(&mut Viewer::connect(&vm.path).unwrap());
    drop(viewers);
    // The others' places become free.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Viewer::screenshot(&vm.path, PATIENCE) {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[test]
fn the_end_of_the_server_ends_its_viewers() {
    let mut vm = Vm::new();
    let mut viewer = Viewer::connect(&vm.path).unwrap();
    until(&mut viewer, |event| *event == Event::Configured(None));
    drop(vm.server.take());
    closed(&mut viewer);
}

#[test]
fn a_screenshot_is_a_png_of_what_is_shown() {
    let mut vm = Vm::new();
    let nothing = Viewer::screenshot(&vm.path, Duration::from_millis(1));
    assert!(matches!(nothing, Err(ViewerError::Nothing { .. })));
    vm.screen.configure(Some(size(3, 2))).unwrap();
    vm.screen.paint(size(3, 2).whole(), &mut |y, x, row| {
        assert_eq!((x, row.len()), (0, 12));
        // Blue 1, green 2, red 3 or 4.
        row.chunks_exact_mut(4).for_each(|p| p.copy_from_slice(&[1, 2, 3 + y as u8, 99]));
    });
    let picture = Viewer::screenshot(&vm.path, PATIENCE).unwrap();
    let file = picture.to_png().unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (3, 2, png::ColorType::Rgb));
    assert_eq!(pixels, [[3, 2, 1].repeat(3), [4, 2, 1].repeat(3)].concat());
}

/// A VM process of ill will: sends these packets to the one viewer that comes.
fn hostile(packets: &[(Vec<u8>, Option<&OwnedFd>)]) -> ViewerError {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("display.sock");
    let listener = packet::listen_at(path).unwrap();
    let mut viewer = Viewer::connect(path).unwrap();
    let socket = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
    for (bytes, descriptor) in packets {
        packet::send(socket.as_fd(), bytes, descriptor.map(AsFd::as_fd)).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match viewer.wait(deadline) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the viewer took all of it"),
            Err(error) => return error,
        }
    }
}

#[test]
fn a_vm_process_that_breaks_the_rules_is_found_out() {
    let hello = || (ToViewer::Hello { version: 1 }.encode(), None);
    let configure =
        |side| ToViewer::Configure { serial: 1, size: Some(size(side, side)), stride: 4 * side };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let loose = memfd_create("loose", flags).unwrap();
    rustix::fs::ftruncate(&loose, 4096).unwrap();
    let small = memfd_create("small", flags).unwrap();
    rustix::fs::ftruncate(&small, 4095).unwrap();
    rustix::fs::fcntl_add_seals(&small, rustix::fs::SealFlags::SHRINK).unwrap();
    let part = Rectangle { x: 10, y: 0, width: 1, height: 1 };
    let damage = |serial| ToViewer::Damage { serial, damage: [part].into_iter().collect() };
    let packets = [
        vec![(configure(4).encode(), None)],
        vec![(ToViewer::Hello { version: 2 }.encode(), None)],
        vec![hello(), hello()],
        vec![hello(), (configure(32).encode(), None)],
        vec![hello(), (configure(32).encode(), Some(&loose))],
        vec![hello(), (configure(32).encode(), Some(&small))],
        vec![hello(), (ToViewer::Leds(1).encode(), Some(&small))],
        vec![hello(), (damage(0).encode(), None)],
        vec![hello(), (configure(8).encode(), Some(&small)), (damage(2).encode(), None)],
        vec![hello(), (configure(8).encode(), Some(&small)), (damage(1).encode(), None)],
        vec![hello(), (vec![9; 17], None)],
        vec![hello(), (vec![0; 30_000], None)],
    ];
    for packets in packets {
        let error = hostile(&packets).to_string();
        assert!(error.contains("broke the protocol"), "{error}");
    }
}
