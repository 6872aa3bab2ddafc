//! What a guest says of its windows, and what a desktop does with them meanwhile.
//! Run: `cargo +nightly fuzz run guest` in `compositor`.
#![no_main]

use compositor::model::{Act, Insets, Model, Rect, Screen, Seen, State, Untrusted, View};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::v1::{FromGuest, WindowsHello, from_guest};
use std::time::Duration;
use witness::Witness;

#[path = "../../src/model/witness.rs"]
mod witness;

const MEMORY: u64 = 1 << 20;

fn hello(model: &mut Model) {
    let hello = WindowsHello { version: window_link::VERSION, ..WindowsHello::default() };
    let hello = FromGuest { message: Some(from_guest::Message::Hello(hello)) };
    model.hear(Untrusted::new(hello)).expect("a hello");
}

fuzz_target!(|bytes: &[u8]| {
    let mut model = Model::new("vm", MEMORY);
    let rect = Rect { x: 0, y: 0, width: 1280, height: 800 };
    model.set_screens(&[Screen { rect, scale: 150 }]);
    hello(&mut model);
    let mut witness = Witness::new(MEMORY);
    let mut rest = bytes;
    // Each step after its kind and length.
    while let [kind, length, after @ ..] = rest {
        let (step, next) = after.split_at(after.len().min(usize::from(*length)));
        rest = next;
        let number = |index: usize| u32::from(step.get(index).copied().unwrap_or(0));
        let at = |index: usize| i32::try_from(number(index) * 8).unwrap_or(0) - 500;
        match kind % 8 {
            0 => {
                let native = Rect {
                    x: at(1),
                    y: at(2),
                    width: 5 + number(3) * 9,
                    height: 20 + number(4) * 9,
                };
                let state = State {
                    fullscreen: number(5) & 1 != 0,
                    minimized: number(5) & 2 != 0,
                    ..State::default()
                };
                let (window, hidden) = (number(0), number(5) & 4 != 0);
                model.see(Seen::Placed { window, native, state, frame: Insets::all(3), hidden });
            }
            1 => model.see(Seen::Focus(Some(number(0)))),
            2 => {
                let (window, button, pressed) = (number(0), 1, number(1) & 1 != 0);
                model.see(Seen::Button { window, button, pressed, time: 0 });
                model.see(Seen::Motion { window, x: at(1) * 256, y: at(2) * 256, time: 0 });
            }
            3 => {
                for (window, sequence) in witness.painting() {
                    model.painted(window, sequence);
                }
            }
            4 if number(0) == 77 => {
                model.disconnected();
                witness.watch(&model.acts());
                assert!(witness.open().is_empty());
                hello(&mut model);
            }
            4 if number(0) == 78 => {
                model.launched();
                model.pass(Duration::from_millis(u64::from(number(1)) * 300));
                model.see(Seen::Left { held: number(2) & 1 != 0, time: 0 });
            }
            _ => {
                if let Ok(message) = FromGuest::decode(step) {
                    model.hear(Untrusted::new(message)).expect("it has said hello");
                }
            }
        }
        witness.watch(&model.acts());
        let shown: Vec<u32> = model.shown().map(|(id, _)| id).collect();
        assert_eq!(shown, witness.open());
    }
});
