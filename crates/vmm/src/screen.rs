//! The screen of a VM that has one: graphics, keyboard and pointer, and the socket at which viewers
//! look and type. The same for every engine.

use crate::MachineError;
use display::{Display, FromViewer, Seat, Server, Size};
use std::path::Path;
use virtio::Device;
use virtio::gpu::{Gpu, GpuControl, Mode};
use virtio::input::{Input, InputHandle};

/// First of the pointer's buttons (`BTN_MISC`, linux/input-event-codes.h); below are keys.
const FIRST_BUTTON: u16 = 0x100;

/// Does what an engine needs beside the device's own interrupt when a viewer asks for a size.
pub(crate) type OnResize = Box<dyn FnMut(Size) + Send>;

/// The devices, and the other end of what they show and hear.
pub(crate) struct Screen {
    /// Graphics, keyboard, pointer, for the machine.
    pub(crate) devices: [Box<dyn Device>; 3],
    pub(crate) viewers: Viewers,
}

/// What viewers will see and touch.
pub(crate) struct Viewers {
    display: Display,
    seat: Hands,
}

impl Screen {
    /// Makes it as the definition says.
    pub(crate) fn new(wanted: &definition::Display) -> Result<Self, MachineError> {
        let failed = |error| MachineError::system("cannot make the screen", error);
        let size =
            Size::new(wanted.width, wanted.height).ok_or_else(|| MachineError::Definition {
                field: "display".into(),
                value: format!("{} x {}", wanted.width, wanted.height),
                reason: "no screen has that size".to_owned(),
            })?;
        let display = Display::new().map_err(failed)?;
        let screen = Box::new(display.screen());
        let (gpu, control) = Gpu::new("gpu0", Mode::new(size), screen).map_err(failed)?;
        let leds = display.leds();
        let lamps = Box::new(move |bits| leds.set(bits));
        let (keyboard, keys) = Input::keyboard("keyboard0", lamps).map_err(failed)?;
        let (pointer, hand) = Input::pointer("pointer0").map_err(failed)?;
        let seat = Hands { gpu: control, keyboard: keys, pointer: hand, on_resize: None };
        let devices: [Box<dyn Device>; 3] = [Box::new(gpu), Box::new(keyboard), Box::new(pointer)];
        Ok(Self { devices, viewers: Viewers { display, seat } })
    }
}

impl Viewers {
    /// The size the guest is asked for.
    pub(crate) fn size(&self) -> Size {
        self.seat.gpu.mode().size
    }

    /// Listens for viewers at `path`.
    pub(crate) fn serve(
        self,
        path: &Path,
        on_resize: Option<OnResize>,
    ) -> Result<Server, MachineError> {
        let seat = Hands { on_resize, ..self.seat };
        Server::start(&self.display, path, Box::new(seat))
            .map_err(|error| MachineError::file("cannot listen at", path, error))
    }
}

/// What viewers do, done to the devices.
struct Hands {
    gpu: GpuControl,
    keyboard: InputHandle,
    pointer: InputHandle,
    on_resize: Option<OnResize>,
}

impl Seat for Hands {
    fn take(&mut self, said: FromViewer) {
        match said {
            FromViewer::Resize { size, width_mm, height_mm } => {
                self.gpu.set_mode(Mode { size, width_mm, height_mm });
                if let Some(on_resize) = &mut self.on_resize {
                    on_resize(size);
                }
            }
            FromViewer::Key { code, pressed } if code < FIRST_BUTTON => {
                self.keyboard.key(code, pressed);
            }
            FromViewer::Key { code, pressed } | FromViewer::Button { code, pressed } => {
                self.pointer.key(code, pressed);
            }
            FromViewer::Pointer { x, y } => self.pointer.point(x, y),
            FromViewer::Wheel { vertical, horizontal } => self.pointer.wheel(vertical, horizontal),
            // The server's own business.
            FromViewer::Acknowledge { .. } => {}
        }
    }
}
