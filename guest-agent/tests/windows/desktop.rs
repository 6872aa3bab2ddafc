//! Desktop mode: the guest's screen shows its windows, under its own window manager or none.

use crate::client::Client;
use crate::exchange::{GREEN, GREEN_BYTES, RED, RED_BYTES, fill};
use crate::host::{Desk, PATIENCE, Peer, there_are};
use proto::v1::{Mode, WindowsMode, from_host};
use std::path::Path;
use std::time::{Duration, Instant};
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    BUTTON_PRESS_EVENT, BUTTON_RELEASE_EVENT, ConfigureWindowAux, ConnectionExt as _, ImageFormat,
    KEY_PRESS_EVENT, KEY_RELEASE_EVENT, MOTION_NOTIFY_EVENT, MapState, Window,
};
use x11rb::protocol::xtest::ConnectionExt as _;

fn mode(mode: WindowsMode) -> from_host::Message {
    from_host::Message::Mode(Mode { mode: mode.into() })
}

/// Where a window is on the screen, within whatever frame.
fn place(client: &Client, window: Window) -> (i16, i16, u16, u16) {
    let at = client.x.translate_coordinates(window, client.root, 0, 0).unwrap().reply().unwrap();
    let size = client.x.get_geometry(window).unwrap().reply().unwrap();
    (at.dst_x, at.dst_y, size.width, size.height)
}

/// As a device of the machine would.
fn device(client: &Client, kind: u8, detail: u8, x: i16, y: i16) {
    client.x.xtest_fake_input(kind, detail, 0, client.root, x, y, 0).unwrap();
    client.x.flush().unwrap();
}

fn click(client: &Client, x: i16, y: i16) {
    device(client, MOTION_NOTIFY_EVENT, 0, x, y);
    device(client, BUTTON_PRESS_EVENT, 1, 0, 0);
    device(client, BUTTON_RELEASE_EVENT, 1, 0, 0);
}

/// A green window that the host knows and has put there.
fn shown(client: &Client, host: &mut Peer<'_>, place: (i16, i16, u16, u16)) -> Window {
    let window = client.window(place, GREEN, false);
    client.map(window);
    host.until("a window", |host| {
        host.windows.get(&window).is_some_and(|seen| !seen.presents.is_empty())
    });
    let (x, y, width, height) = place;
    host.configure(window, 1, (x.into(), y.into(), width.into(), height.into()));
    host.settle();
    window
}

/// The process of this program that belongs to an X server.
fn process(program: &str, display: &str) -> Option<i32> {
    let of = format!("DISPLAY={display}\0");
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let name = line.split(|byte| *byte == 0).next()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let is = Path::new(std::str::from_utf8(name).ok()?).file_name()? == program
            && environment.windows(of.len()).any(|part| part == of.as_bytes());
        is.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn in_desktop_mode_the_screen_shows_the_windows_and_nothing_is_presented() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let window = client.window((100, 100, 300, 200), GREEN, false);
    client.map(window);
    host.until("a window", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.count(GREEN_BYTES) == 60_000)
    });
    let place = host.windows[&window].geometry();
    let (x, y) = (place.x as i16 + 50, place.y as i16 + 50);
    let on_screen = || {
        let format = ImageFormat::Z_PIXMAP;
        let image = client.x.get_image(format, client.root, x, y, 1, 1, !0).unwrap();
        let data = image.reply().unwrap().data;
        [data[0], data[1], data[2]]
    };
    assert_ne!(on_screen(), GREEN_BYTES);
    host.send(mode(WindowsMode::Desktop));
    host.settle();
    fill(&client, window, RED, (0, 0, 300, 200));
    client.settle();
    assert_eq!(on_screen(), RED_BYTES);
    let presents = host.presents;
    host.settle();
    assert_eq!(host.presents, presents);
    host.send(mode(WindowsMode::Seamless));
    host.until("the window with what was drawn meanwhile", |host| {
        host.windows.get(&window).is_some_and(|seen| seen.count(RED_BYTES) == 60_000)
    });
}

#[test]
fn the_guests_window_manager_has_the_desktop_and_gives_it_back() {
    if !there_are(&["Xvfb", "openbox", "xprop"]) {
        return;
    }
    let mut desk = Desk::new();
    desk.install("openbox");
    let client = Client::new(&desk);
    let window = client.window((100, 100, 300, 200), GREEN, false);
    {
        let mut host = desk.connected();
        client.map(window);
        host.until("a window", |host| {
            host.windows.get(&window).is_some_and(|seen| seen.count(GREEN_BYTES) == 60_000)
        });
        host.send(mode(WindowsMode::Desktop));
        host.until("no window", |host| host.gone.contains(&window));
        let parent = || client.x.query_tree(window).unwrap().reply().unwrap().parent;
        host.until("a frame of the other window manager", |_| parent() != client.root);
        host.until("the window to be seen", |_| {
            let attributes = client.x.get_window_attributes(window).unwrap().reply().unwrap();
            attributes.map_state == MapState::VIEWABLE
        });
        fill(&client, window, RED, (0, 0, 300, 200));
        host.send(mode(WindowsMode::Seamless));
        host.until("the window with what was drawn meanwhile", |host| {
            host.windows.get(&window).is_some_and(|seen| !seen.presents.is_empty())
        });
        assert_eq!(parent(), client.root);
        fill(&client, window, RED, (0, 0, 300, 200));
        host.until("what is drawn now", |host| host.windows[&window].count(RED_BYTES) == 60_000);
    }
    assert!(desk.agent_lives());
}

#[test]
fn without_a_window_manager_a_click_raises_a_window_and_gives_it_the_keyboard() {
    if !there_are(&["Xvfb"]) {
        return;
    }
    let desk = Desk::new();
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let below = shown(&client, &mut host, (100, 100, 300, 200));
    let above = shown(&client, &mut host, (250, 200, 300, 200));
    host.send(mode(WindowsMode::Desktop));
    // As a host says it that has closed its windows: nothing may come over the guest's windows by it.
    host.focus(0);
    host.point(0, 0, 0);
    host.settle();
    let focus = || client.x.get_input_focus().unwrap().reply().unwrap().focus;
    assert_eq!(focus(), above, "the last window has the keyboard");
    let (x, y, ..) = place(&client, below);
    click(&client, x + 20, y + 20);
    host.until("the keyboard", |_| focus() == below);
    host.settle();
    let children = client.x.query_tree(client.root).unwrap().reply().unwrap().children;
    let height = |window| children.iter().position(|child| *child == window);
    assert!(height(below) > height(above), "{children:x?}");
    device(&client, KEY_PRESS_EVENT, 38, 0, 0);
    device(&client, KEY_RELEASE_EVENT, 38, 0, 0);
    // Click and key are the program's.
    let mut seen = (false, false);
    let deadline = Instant::now() + PATIENCE;
    while seen != (true, true) {
        assert!(Instant::now() < deadline, "{seen:?}");
        match client.x.poll_for_event().unwrap() {
            Some(Event::ButtonPress(event)) => seen.0 |= event.event == below,
            Some(Event::KeyPress(event)) => seen.1 |= event.event == below,
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    // One that is new has the keyboard, and what is left when it goes.
    let new = client.window((10, 10, 200, 100), RED, false);
    client.map(new);
    host.until("the keyboard for a new window", |_| focus() == new);
    client.x.destroy_window(new).unwrap();
    client.x.flush().unwrap();
    host.until("the keyboard for one of the others", |_| [below, above].contains(&focus()));
}

#[test]
fn windows_go_back_to_their_places_unless_the_user_has_moved_them() {
    if !there_are(&["Xvfb", "openbox"]) {
        return;
    }
    let desk = Desk::new();
    desk.install("openbox");
    let mut host = desk.connected();
    let client = Client::new(&desk);
    let stays = shown(&client, &mut host, (100, 100, 300, 200));
    let moves = shown(&client, &mut host, (500, 300, 300, 200));
    let stood = host.windows[&stays].geometry();
    host.send(mode(WindowsMode::Desktop));
    let framed =
        |window| client.x.query_tree(window).unwrap().reply().unwrap().parent != client.root;
    host.until("frames", |_| framed(stays) && framed(moves));
    // The agent looks once a second where they are.
    host.listen(Duration::from_secs(5));
    let framed_at = place(&client, stays);
    let to = ConfigureWindowAux::new().x(640).y(420).width(350);
    client.x.configure_window(moves, &to).unwrap();
    client.x.flush().unwrap();
    host.until("the window moved by its user", |_| place(&client, moves).2 == 350);
    let moved = place(&client, moves);
    host.send(mode(WindowsMode::Seamless));
    host.until("both windows again", |host| {
        [stays, moves]
            .iter()
            .all(|window| host.windows.get(window).is_some_and(|seen| !seen.presents.is_empty()))
    });
    host.settle();
    assert_eq!(host.windows[&stays].geometry(), stood, "its frame had it at {framed_at:?}");
    let now = host.windows[&moves].geometry();
    assert_eq!((now.x, now.y), (moved.0.into(), moved.1.into()));
    assert_eq!((now.width, now.height), (350, 200));
}

#[test]
fn a_window_manager_that_dies_leaves_windows_that_can_be_used() {
    if !there_are(&["Xvfb", "openbox"]) {
        return;
    }
    let mut desk = Desk::new();
    desk.install("openbox");
    {
        let mut host = desk.connected();
        let client = Client::new(&desk);
        let window = shown(&client, &mut host, (100, 100, 300, 200));
        host.send(mode(WindowsMode::Desktop));
        let parent = || client.x.query_tree(window).unwrap().reply().unwrap().parent;
        host.until("a frame", |_| parent() != client.root);
        kill(process("openbox", &desk.display).unwrap());
        let owner = client.atom("WM_S0");
        let owned = || client.x.get_selection_owner(owner).unwrap().reply().unwrap().owner != 0;
        host.until("the agent in its place", |_| parent() == client.root && owned());
        let (x, y, ..) = place(&client, window);
        client
            .x
            .set_input_focus(x11rb::protocol::xproto::InputFocus::NONE, client.root, 0_u32)
            .unwrap();
        host.until("the keyboard by a click", |_| {
            click(&client, x + 10, y + 10);
            client.x.get_input_focus().unwrap().reply().unwrap().focus == window
        });
        host.send(mode(WindowsMode::Seamless));
        host.until("the window again", |host| {
            host.windows.get(&window).is_some_and(|seen| !seen.presents.is_empty())
        });
    }
    assert!(desk.agent_lives());
}

#[test]
fn an_agent_that_dies_in_desktop_mode_is_followed_by_one_that_has_the_role() {
    if !there_are(&["Xvfb", "openbox"]) {
        return;
    }
    let mut desk = Desk::new();
    desk.kill_agent();
    desk.install("openbox");
    let runtime = desk.path().join("runtime");
    let (agent, display, authority) = desk.own_server(&runtime);
    let mut host = desk.connected();
    host.send(mode(WindowsMode::Desktop));
    host.until("a window manager", |_| process("openbox", &display).is_some());
    let left = process("openbox", &display).unwrap();
    drop(host);
    drop(agent);
    assert_eq!(process("openbox", &display), Some(left), "it goes on without the agent");
    let (_agent, again, _) = desk.own_server(&runtime);
    assert_eq!(again, display);
    let mut host = desk.connected();
    assert_eq!(process("openbox", &display), None);
    host.send(mode(WindowsMode::Desktop));
    host.until("another window manager", |_| process("openbox", &display).is_some());
    host.send(mode(WindowsMode::Seamless));
    host.until("its end", |_| process("openbox", &display).is_none());
    crate::host::end_server(&authority);
}
