//! Windows come, change and go in any order, the host answers what it likes: of each window at most one present
//! is unanswered, no two buffers overlap, and none is used again while the host may read it. For the fuzz
//! target `window_telling` and the test `telling`.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;

use guest_agent::windows::link::Link;
use guest_agent::windows::telling::Teller;
use proto::v1::{Configure, FromGuest, Present, PresentAck, Rectangle, Window, from_guest};

const MEMORY: u64 = 1 << 20;

/// Takes steps and checks what the host is told after each; gives how many presents there were.
pub fn take(steps: &[(u8, u8, u16, u16)]) -> usize {
    let mut presents = 0;
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut teller = Teller::new(MEMORY);
    teller.connected(Link::new(ours.into()).unwrap());
    teller.greet(MEMORY);
    let mut decoder = window_link::Decoder::<FromGuest>::default();
    // Of each window the present that the host has not answered.
    let mut unanswered = BTreeMap::<u32, Present>::new();
    let mut last = 0;
    for &(what, id, a, b) in steps.iter().take(300) {
        let id = u32::from(id % 16) + 1;
        let (x, y) = (i32::from(a) - 300, i32::from(b) - 300);
        match what % 9 {
            0 | 1 => {
                let place = Rectangle { x, y, width: a.into(), height: b.into() };
                teller.window(Window { id, geometry: Some(place), ..Window::default() });
            }
            2 => teller.resized(id, u32::from(a % 400), u32::from(b % 400)),
            3 => teller.damaged(id, x, y, a.into(), b.into()),
            4 => {
                teller.gone(id);
            }
            5 => {
                if let Some(present) = unanswered.remove(&id) {
                    teller.acknowledged(&PresentAck { window: id, sequence: present.sequence });
                }
            }
            6 => {
                // Made up, and now and then right.
                if unanswered.get(&id).is_some_and(|present| present.sequence == u64::from(a)) {
                    unanswered.remove(&id);
                }
                teller.acknowledged(&PresentAck { window: id, sequence: a.into() });
            }
            7 => {
                let hidden = b.is_multiple_of(2);
                let configure =
                    Configure { window: id, generation: a.into(), hidden, ..Configure::default() };
                teller.configure(&configure);
            }
            _ => teller.unseen(id),
        }
        let due: Vec<u32> = teller.due().iter().map(|due| due.window).collect();
        for window in due {
            teller.present(window);
        }
        teller.link().unwrap().flush().unwrap();
        let mut buffer = [0; 65536];
        while let Ok(count) = (&theirs).read(&mut buffer) {
            decoder.give(&buffer[..count]);
        }
        while let Some(message) = decoder.take().unwrap() {
            match message.message.unwrap() {
                from_guest::Message::Present(present) => {
                    assert!(present.sequence > last);
                    last = present.sequence;
                    presents += 1;
                    assert!(!unanswered.contains_key(&present.window));
                    let end =
                        present.offset + u64::from(present.stride) * u64::from(present.height);
                    assert!(end <= MEMORY);
                    for other in unanswered.values() {
                        let other_end =
                            other.offset + u64::from(other.stride) * u64::from(other.height);
                        assert!(end <= other.offset || other_end <= present.offset);
                    }
                    unanswered.insert(present.window, present);
                }
                // The host reads no more of a window that is gone.
                from_guest::Message::Gone(gone) => drop(unanswered.remove(&gone.id)),
                _ => {}
            }
        }
    }
    presents
}
