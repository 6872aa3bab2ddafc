//! Prints what happens on the guest's input devices, as Linux reports it.

use crate::Result;
use std::fs::File;
use std::io::Read;
use std::sync::mpsc;

/// `struct input_event` on x86-64 (linux/input.h): two 8-byte time fields, type, code, value.
const EVENT: usize = 24;
/// `EV_SYN`, and the event that ends a group, `SYN_REPORT` (linux/input-event-codes.h).
const END_OF_GROUP: (u16, u16) = (0, 0);

/// Prints `NAME TYPE CODE VALUE` of each event until so many groups have ended.
pub(crate) fn print(groups: usize) -> Result {
    let (sender, receiver) = mpsc::channel();
    let mut devices = 0;
    for entry in std::fs::read_dir("/dev/input")?.flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        if !number.starts_with("event") {
            continue;
        }
        let name = std::fs::read_to_string(format!("/sys/class/input/{number}/device/name"))?;
        let name = name.trim().to_owned();
        let mut device = File::open(entry.path())?;
        let sender = sender.clone();
        devices += 1;
        std::thread::spawn(move || {
            let mut event = [0; EVENT];
            while device.read_exact(&mut event).is_ok() {
                let kind = u16::from_ne_bytes([event[16], event[17]]);
                let code = u16::from_ne_bytes([event[18], event[19]]);
                let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
                if sender.send((name.clone(), kind, code, value)).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    if devices == 0 {
        return Err("no input device: are the modules virtio_input and evdev loaded?".into());
    }
    println!("listening to {devices} input devices");
    let mut ended = 0;
    while ended < groups {
        let (name, kind, code, value) = receiver.recv()?;
        if (kind, code) == END_OF_GROUP {
            ended += 1;
        } else {
            println!("{name} {kind} {code} {value}");
        }
    }
    Ok(())
}
