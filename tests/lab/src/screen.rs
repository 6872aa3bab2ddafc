//! Looks at a VM's screen and uses its keyboard and pointer.

use crate::Result;
use clap::Subcommand;
use display::{Event, FromViewer, Size, Viewer};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A lab machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// `KEY_A` and `BTN_LEFT` (linux/input-event-codes.h).
const KEY_A: u16 = 30;
const BTN_LEFT: u16 = 0x110;

#[derive(Subcommand)]
pub(crate) enum Act {
    /// Writes what is shown as a PNG file; prints its size and how many pixels are not black.
    Shot { file: PathBuf },
    /// Asks for this size and waits until the screen has it.
    Resize { width: u32, height: u32 },
    /// Presses a key, moves the pointer, clicks, and turns the wheels: six groups of events.
    TypeAndPoint,
}

pub(crate) fn run(socket: &Path, act: &Act) -> Result {
    match act {
        Act::Shot { file } => {
            let picture = Viewer::screenshot(socket, PATIENCE)?;
            std::fs::write(file, picture.to_png()?)?;
            let Size { width, height } = picture.size();
            let lit = picture.rgb().chunks(3).filter(|pixel| *pixel != [0; 3]).count();
            println!("{width} x {height}, lit {lit}");
        }
        Act::Resize { width, height } => {
            let size = Size::new(*width, *height).ok_or("no screen has that size")?;
            let mut viewer = Viewer::connect(socket)?;
            viewer.send(FromViewer::Resize { size, width_mm: 0, height_mm: 0 })?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                match viewer.wait(deadline)?.ok_or("the guest keeps its size")? {
                    Event::Configured(Some(new)) if new == size => break,
                    Event::Damaged(_) => viewer.acknowledge()?,
                    _ => {}
                }
            }
        }
        Act::TypeAndPoint => {
            let viewer = Viewer::connect(socket)?;
            for said in [
                FromViewer::Key { code: KEY_A, pressed: true },
                FromViewer::Key { code: KEY_A, pressed: false },
                FromViewer::Pointer { x: 16384, y: 8192 },
                FromViewer::Button { code: BTN_LEFT, pressed: true },
                FromViewer::Button { code: BTN_LEFT, pressed: false },
                FromViewer::Wheel { vertical: -120, horizontal: 60 },
            ] {
                viewer.send(said)?;
            }
        }
    }
    Ok(())
}
