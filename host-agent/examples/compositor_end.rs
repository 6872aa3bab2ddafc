//! A test double, not part of the product: the control end of a compositor without the windows. It takes
//! what the daemon hands it, keeps what the guest tells of its windows, and answers from that. It dies when a guest's window is
//! called `die`, and stops listening when one is called `hang`. Built with the tests.
#![forbid(unsafe_code)]

use compositor_control::{
    Answer, FromCompositor, Listener, Question, Receiver, Sender, Start, Status, ToCompositor,
    VERSION, Window,
};
use proto::v1::{FromGuest, FromHost, WindowsHello, from_guest, from_host};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Shown {
    start: Option<Start>,
    windows: BTreeMap<u32, Window>,
    memory: Option<(File, u64)>,
    guest: Option<UnixStream>,
    guests: u32,
    hangs: bool,
}

type Shared = Arc<Mutex<Shown>>;

fn main() {
    let listener = Listener::from_standard_input().expect("a socket");
    let shown = Shared::default();
    loop {
        let (sender, receiver) = listener.accept().expect("a daemon");
        serve(&shown, sender, receiver);
        eprintln!("the daemon has gone");
        if shown.lock().unwrap().guest.is_none() {
            return;
        }
    }
}

fn serve(shown: &Shared, mut sender: Sender<FromCompositor>, mut receiver: Receiver<ToCompositor>) {
    let ready = FromCompositor::Ready { version: VERSION, program: "compositor_end".to_owned() };
    sender.send(ready).expect("the daemon listens");
    while let Ok(Some(message)) = receiver.receive() {
        if shown.lock().unwrap().hangs {
            std::thread::park();
        }
        let mut now = shown.lock().unwrap();
        match message {
            ToCompositor::Start(start) => now.start = Some(start),
            ToCompositor::Memory { memory, length, .. } => {
                now.memory = Some((memory.into(), length))
            }
            ToCompositor::Guest { connection, user } => {
                eprintln!("a guest of user {user}");
                let stream = UnixStream::from(connection);
                stream.set_nonblocking(false).unwrap();
                let before = now.guest.replace(stream.try_clone().unwrap());
                if let Some(before) = before {
                    let _ = before.shutdown(std::net::Shutdown::Both);
                }
                now.guests += 1;
                let (shown, number) = (Arc::clone(shown), now.guests);
                std::thread::spawn(move || hear(&shown, stream, number));
            }
            ToCompositor::Display { .. } | ToCompositor::Launched => {}
            ToCompositor::Mode(mode) => now.start.as_mut().unwrap().mode = mode,
            ToCompositor::Ask { number, question } => {
                let answer = answer(&now, question);
                drop(now);
                if sender.send(FromCompositor::Answer { number, answer }).is_err() {
                    return;
                }
            }
            ToCompositor::End => std::process::exit(0),
        }
    }
}

/// What a guest tells, until its end.
fn hear(shown: &Shared, mut stream: UnixStream, number: u32) {
    let memory = shown.lock().unwrap().memory.as_ref().map_or(0, |(_, length)| *length);
    let hello =
        WindowsHello { version: window_link::VERSION, window_memory: memory, ..Default::default() };
    let mut bytes = Vec::new();
    window_link::encode(&FromHost { message: Some(from_host::Message::Hello(hello)) }, &mut bytes)
        .unwrap();
    let _ = stream.write_all(&bytes);
    let mut decoder = window_link::Decoder::<FromGuest>::default();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        decoder.give(&piece[..count]);
        while let Ok(Some(message)) = decoder.take() {
            let Some(from_guest::Message::Window(window)) = message.message else { continue };
            match window.title.as_str() {
                "die" => std::process::abort(),
                "hang" => shown.lock().unwrap().hangs = true,
                _ => {}
            }
            let place = window.geometry.unwrap_or_default();
            let told = Window {
                id: window.id,
                title: window.title,
                class: window.class,
                position: [place.x, place.y],
                size: [place.width, place.height],
                ..Window::default()
            };
            shown.lock().unwrap().windows.insert(window.id, told);
        }
    }
    let mut now = shown.lock().unwrap();
    if now.guests == number {
        now.guest = None;
        now.windows.clear();
    }
}

fn answer(now: &Shown, question: Question) -> Answer {
    match question {
        Question::Status => Answer::Status(Status {
            mode: now.start.as_ref().unwrap().mode,
            guest: now.guest.is_some(),
            windows: u32::try_from(now.windows.len()).unwrap(),
            renderer: format!("{:?}", now.start.as_ref().unwrap().colour),
            // Not refused, but as many as there were.
            refused: BTreeMap::from([("guests".to_owned(), now.guests.into())]),
        }),
        Question::Windows => Answer::Windows(now.windows.values().cloned().collect()),
        Question::Screenshot { window: Some(id) } if !now.windows.contains_key(&id) => {
            Answer::Refused { message: format!("there is no window {id}") }
        }
        Question::Screenshot { .. } => picture(now),
    }
}

/// One pixel: the first of the window memory.
fn picture(now: &Shown) -> Answer {
    let Some((memory, _)) = &now.memory else {
        return Answer::Refused { message: "there is no window memory".to_owned() };
    };
    let mut pixel = [0; 4];
    memory.read_exact_at(&mut pixel, 0).unwrap();
    let [blue, green, red, _] = pixel;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&[red, green, blue]).unwrap();
    let file = rustix::fs::memfd_create("picture", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(file);
    file.write_all(&bytes).unwrap();
    Answer::Picture { file: file.into(), length: bytes.len() as u64 }
}
