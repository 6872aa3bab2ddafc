//! Waits for the ACPI power button as Linux reports it: a key event of an input device.

use crate::Result;
use std::fs::File;
use std::io::Read;
use std::sync::mpsc;

/// `struct input_event` on x86-64 (linux/input.h): two 8-byte time fields, type, code, value.
const EVENT: usize = 24;
/// `EV_KEY` and `KEY_POWER` (linux/input-event-codes.h).
const KEY: (u16, u16) = (1, 116);

pub(crate) fn wait() -> Result {
    let (sender, receiver) = mpsc::channel();
    let mut devices = 0;
    for entry in std::fs::read_dir("/dev/input")?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("event") {
            continue;
        }
        let mut device = File::open(entry.path())?;
        let sender = sender.clone();
        devices += 1;
        std::thread::spawn(move || {
            let mut event = [0; EVENT];
            while device.read_exact(&mut event).is_ok() {
                let kind = u16::from_ne_bytes([event[16], event[17]]);
                let code = u16::from_ne_bytes([event[18], event[19]]);
                if (kind, code) == KEY && sender.send(()).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    if devices == 0 {
        return Err("no input device: are the modules button and evdev loaded?".into());
    }
    println!("waiting for the power button");
    receiver.recv()?;
    println!("the power button was pressed");
    Ok(())
}
