//! The program whose window is measured: 1280x720, with a mark in two corners that says what is shown.

use crate::failure::{Failure, Result};
use clap::Subcommand;
use std::time::{Duration, Instant};
use window_link::latency;
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeGCAux, ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask, Gcontext,
    ImageFormat, PropMode, Rectangle, WindowClass,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

/// Pixels of the window.
pub(crate) const WIDTH: u16 = 1280;
/// Pixels of the window.
pub(crate) const HEIGHT: u16 = 720;
/// Where it asks to be.
pub(crate) const PLACE: (i16, i16) = (200, 150);
/// Pixels of a side of the marks in its left upper and right lower corner.
pub(crate) const MARK: u16 = 64;
/// Colour of the marks before the first key, and after every second one.
pub(crate) const CALM: u32 = 0x10_e0_70;
/// Colour of the left upper mark after a key.
pub(crate) const STRUCK: u32 = 0xe0_10_70;
/// Added to the number of a frame of the animation: no mark of [`Mode::Still`] has it.
pub(crate) const FRAME: u32 = 0x80_00_00;
/// Colour of everything else of the still window.
const GROUND: u32 = 0x20_30_40;
/// Pictures that the animation shows in turn.
const PICTURES: u32 = 8;

/// What it does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Mode {
    /// Changes the colour of its left upper mark at each key press, and says when it got it and had drawn.
    Still,
    /// Shows another picture all the time, all of it new.
    Animate {
        /// Pictures in a second.
        #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rate: u32,
    },
}

/// Runs until the X server is gone.
pub(crate) fn run(mode: Mode) -> Result {
    let (x, screen) = RustConnection::connect(None)?;
    let (root, depth) = (x.setup().roots[screen].root, x.setup().roots[screen].root_depth);
    let window = x.generate_id()?;
    let look = CreateWindowAux::new()
        .background_pixel(GROUND)
        .event_mask(EventMask::KEY_PRESS | EventMask::EXPOSURE);
    let class = WindowClass::INPUT_OUTPUT;
    let (left, top) = PLACE;
    x.create_window(depth, window, root, left, top, WIDTH, HEIGHT, 0, class, 0, &look)?;
    x.change_property8(
        PropMode::REPLACE,
        window,
        AtomEnum::WM_NAME,
        AtomEnum::STRING,
        b"seamless-bench",
    )?;
    // ICCCM 4.1.2.3: the place is the user's, the size is fixed.
    let (place, least, most) = (1 << 0, 1 << 4, 1 << 5);
    let mut hints = [0_u32; 18];
    hints[0] = place | least | most;
    let (width, height) = (u32::from(WIDTH), u32::from(HEIGHT));
    hints[5..9].copy_from_slice(&[width, height, width, height]);
    x.change_property32(
        PropMode::REPLACE,
        window,
        AtomEnum::WM_NORMAL_HINTS,
        AtomEnum::WM_SIZE_HINTS,
        &hints,
    )?;
    let gc = x.generate_id()?;
    x.create_gc(gc, window, &CreateGCAux::new().graphics_exposures(0))?;
    x.map_window(window)?;
    x.flush()?;
    match mode {
        Mode::Still => still(&x, window, gc),
        Mode::Animate { rate } => animate(&x, window, gc, depth, rate),
    }
}

fn mark(x: &RustConnection, on: u32, gc: Gcontext, colour: u32, corners: &[Rectangle]) -> Result {
    x.change_gc(gc, &ChangeGCAux::new().foreground(colour))?;
    x.poly_fill_rectangle(on, gc, corners)?;
    Ok(())
}

/// Left upper and right lower corner.
fn corners() -> [Rectangle; 2] {
    let place = |far: u16| i16::try_from(far - MARK).unwrap_or(0);
    [
        Rectangle { x: 0, y: 0, width: MARK, height: MARK },
        Rectangle { x: place(WIDTH), y: place(HEIGHT), width: MARK, height: MARK },
    ]
}

fn still(x: &RustConnection, window: u32, gc: Gcontext) -> Result {
    let [first, last] = corners();
    let mut colour = CALM;
    loop {
        match x.wait_for_event()? {
            Event::Expose(_) => {
                mark(x, window, gc, colour, &[first])?;
                mark(x, window, gc, CALM, &[last])?;
            }
            Event::KeyPress(_) => {
                let got = latency::now();
                colour = if colour == CALM { STRUCK } else { CALM };
                mark(x, window, gc, colour, &[first])?;
                x.flush()?;
                println!("way got={got} drew={}", latency::now());
            }
            _ => continue,
        }
        x.flush()?;
    }
}

fn animate(x: &RustConnection, window: u32, gc: Gcontext, depth: u8, rate: u32) -> Result {
    let pictures = pictures(x, window, gc, depth)?;
    loop {
        if matches!(x.wait_for_event()?, Event::Expose(_)) {
            break;
        }
    }
    let corners = corners();
    let interval = Duration::from_secs(1) / rate;
    let mut due = Instant::now();
    for number in 0_u32.. {
        let picture = pictures[(number % PICTURES) as usize];
        mark(x, picture, gc, FRAME + number % FRAME, &corners)?;
        // One request: the window never shows half of two pictures.
        x.copy_area(picture, window, gc, 0, 0, 0, 0, WIDTH, HEIGHT)?;
        // The server takes part in the pace: what it has not drawn does not pile up in front of it.
        x.get_input_focus()?.reply()?;
        while x.poll_for_event()?.is_some() {}
        due = (due + interval).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Pixmaps full of noise, no two rows alike.
fn pictures(x: &RustConnection, window: u32, gc: Gcontext, depth: u8) -> Result<Vec<u32>> {
    let rows = 90;
    let mut state = 1_u64;
    (0..PICTURES)
        .map(|_| {
            let pixmap = x.generate_id()?;
            x.create_pixmap(depth, pixmap, window, WIDTH, HEIGHT)?;
            for top in (0..HEIGHT).step_by(rows.into()) {
                let pixels: Vec<u8> = (0..usize::from(WIDTH) * usize::from(rows))
                    .flat_map(|_| {
                        // Knuth's linear congruential generator, MMIX.
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let [_, _, _, _, blue, green, red, _] = state.to_le_bytes();
                        [blue, green, red, 0]
                    })
                    .collect();
                let format = ImageFormat::Z_PIXMAP;
                let y = i16::try_from(top).map_err(|error| Failure::X(error.to_string()))?;
                x.put_image(format, pixmap, gc, WIDTH, rows, 0, y, 0, depth, &pixels)?;
            }
            Ok(pixmap)
        })
        .collect()
}
