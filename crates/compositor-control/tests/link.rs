//! Both sides of a control stream, and a side that lies.

use compositor_control::{
    Answer, ControlError, FromCompositor, LINE, Listener, Mode, Question, Receiver, Sender, Start,
    Status, ToCompositor, VERSION, Window, link,
};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

type Daemon = (Sender<ToCompositor>, Receiver<FromCompositor>);
type Compositor = (Sender<FromCompositor>, Receiver<ToCompositor>);

fn both() -> (Daemon, Compositor) {
    let (daemon, compositor) = UnixStream::pair().unwrap();
    (link(daemon).unwrap(), link(compositor).unwrap())
}

fn start() -> Start {
    Start { version: VERSION, vm: "a \"b\"\n".into(), colour: [1, 2, 3], mode: Mode::Seamless }
}

#[test]
fn a_guests_connection_arrives_and_carries_bytes() {
    let ((mut daemon, _), (_, mut compositor)) = both();
    let (ours, theirs) = UnixStream::pair().unwrap();
    daemon.send(ToCompositor::Start(start())).unwrap();
    daemon.send(ToCompositor::Guest { connection: theirs.into(), user: 1000 }).unwrap();
    daemon.send(ToCompositor::Mode(Mode::Desktop)).unwrap();
    daemon.send(ToCompositor::Launched).unwrap();
    match compositor.receive().unwrap() {
        Some(ToCompositor::Start(came)) => assert_eq!(came, start()),
        other => panic!("{other:?}"),
    }
    match compositor.receive().unwrap() {
        Some(ToCompositor::Guest { connection, user: 1000 }) => {
            UnixStream::from(connection).write_all(b"pixels").unwrap();
        }
        other => panic!("{other:?}"),
    }
    let mut got = String::new();
    (&ours).read_to_string(&mut got).unwrap();
    assert_eq!(got, "pixels");
    assert!(matches!(compositor.receive(), Ok(Some(ToCompositor::Mode(Mode::Desktop)))));
    assert!(matches!(compositor.receive(), Ok(Some(ToCompositor::Launched))));
    drop(daemon);
}

#[test]
fn each_descriptor_goes_with_its_own_message() {
    let ((mut daemon, _), (_, mut compositor)) = both();
    let mut ends = Vec::new();
    for number in 0..20_u32 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(&number.to_le_bytes()).unwrap();
        daemon
            .send(ToCompositor::Ask { number: number.into(), question: Question::Status })
            .unwrap();
        daemon.send(ToCompositor::Guest { connection: theirs.into(), user: number }).unwrap();
        ends.push(ours);
    }
    for expected in 0..20_u32 {
        assert!(matches!(compositor.receive(), Ok(Some(ToCompositor::Ask { .. }))));
        let Ok(Some(ToCompositor::Guest { connection, user })) = compositor.receive() else {
            panic!("no guest");
        };
        let mut number = [0; 4];
        UnixStream::from(connection).read_exact(&mut number).unwrap();
        assert_eq!((user, u32::from_le_bytes(number)), (expected, expected));
    }
}

#[test]
fn answers_come_back_whole() {
    let ((_, mut daemon), (mut compositor, _)) = both();
    let window =
        Window {
            id: 7, title: "Ünïcode\u{2028}\"".into(), size: [640, 480], ..Window::default()
        };
    let windows = vec![window; 500];
    let status =
        Status { windows: 500, refused: [("damage".to_owned(), 3)].into(), ..Status::default() };
    let (expected, told) = (windows.clone(), status.clone());
    let writing = std::thread::spawn(move || {
        let picture = std::fs::File::open("/dev/null").unwrap().into();
        for answer in [
            Answer::Windows(windows),
            Answer::Status(told),
            Answer::Picture { file: picture, length: 9 },
            Answer::Refused { message: "no".into() },
        ] {
            compositor.send(FromCompositor::Answer { number: 1, answer }).unwrap();
        }
    });
    let mut answers = std::iter::from_fn(|| match daemon.receive().unwrap()? {
        FromCompositor::Answer { number: 1, answer } => Some(answer),
        other => panic!("{other:?}"),
    });
    assert!(matches!(answers.next(), Some(Answer::Windows(came)) if came == expected));
    assert!(matches!(answers.next(), Some(Answer::Status(came)) if came == status));
    assert!(matches!(answers.next(), Some(Answer::Picture { length: 9, .. })));
    assert!(matches!(answers.next(), Some(Answer::Refused { message }) if message == "no"));
    assert!(answers.next().is_none());
    writing.join().unwrap();
}

#[test]
fn a_message_without_its_descriptor_is_an_error() {
    let (liar, compositor) = UnixStream::pair().unwrap();
    let (_sender, mut compositor): Compositor = link(compositor).unwrap();
    (&liar).write_all(b"{\"message\":\"memory\",\"length\":4096}\n").unwrap();
    assert!(matches!(compositor.receive(), Err(ControlError::NoDescriptor)));
}

#[test]
fn descriptors_that_nothing_announced_are_refused() {
    let (liar, compositor) = UnixStream::pair().unwrap();
    let (_sender, mut compositor): Compositor = link(compositor).unwrap();
    let surplus: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let flood = std::thread::spawn(move || {
        for _ in 0..50 {
            let line = b"{\"message\":\"mode\",\"mode\":\"desktop\"}\n";
            if passing::send(&liar, line, &[surplus.as_fd()]).is_err() {
                break;
            }
        }
    });
    let error = loop {
        match compositor.receive() {
            Ok(Some(ToCompositor::Mode(Mode::Desktop))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ControlError::Stream(_)), "{error}");
    drop((compositor, _sender));
    flood.join().unwrap();
}

#[test]
fn an_endless_line_is_refused_at_the_limit() {
    let (liar, compositor) = UnixStream::pair().unwrap();
    let (_sender, mut compositor): Compositor = link(compositor).unwrap();
    let endless = std::thread::spawn(move || {
        let piece = [b' '; 65_536];
        let mut sent = 0;
        while sent <= 2 * LINE && (&liar).write_all(&piece).is_ok() {
            sent += piece.len();
        }
    });
    assert!(matches!(compositor.receive(), Err(ControlError::Long)));
    drop((compositor, _sender));
    endless.join().unwrap();
}

#[test]
fn a_daemon_that_died_within_a_line_has_left() {
    let (liar, compositor) = UnixStream::pair().unwrap();
    let (_sender, mut compositor): Compositor = link(compositor).unwrap();
    (&liar).write_all(b"{\"message\":\"end\"}").unwrap();
    drop(liar);
    assert!(matches!(compositor.receive(), Ok(None)));
}

#[test]
fn the_next_daemon_is_served_after_the_first_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compositor.sock");
    let listener = Listener::new(UnixListener::bind(&path).unwrap());
    for number in 0..2 {
        let (mut daemon, _hearing): Daemon = link(UnixStream::connect(&path).unwrap()).unwrap();
        daemon.send(ToCompositor::Ask { number, question: Question::Windows }).unwrap();
        let (_answering, mut compositor): Compositor = listener.accept().unwrap();
        assert!(matches!(
            compositor.receive(),
            Ok(Some(ToCompositor::Ask { number: asked, question: Question::Windows })) if asked == number
        ));
        drop((daemon, _hearing));
        assert!(matches!(compositor.receive(), Ok(None)));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail_otherwise_than_by_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (liar, compositor) = UnixStream::pair().unwrap();
        let (_sender, mut compositor): Compositor = link(compositor).unwrap();
        (&liar).write_all(&bytes).unwrap();
        drop(liar);
        while let Ok(Some(_)) = compositor.receive() {}
    }
}
