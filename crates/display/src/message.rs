//! The words of the display socket. Each message is one packet (`SOCK_SEQPACKET`), all numbers are
//! little-endian 32-bit words, the first says which message it is. Every field is checked here:
//! beyond this module no number is out of range.

use crate::{Damage, LARGEST_SIDE, MOST_RECTANGLES, PIXEL_BYTES, Rectangle, Size};

/// Version of this protocol, in [`ToViewer::Hello`].
pub const VERSION: u32 = 1;

/// The longest side of a pointer image in pixels.
pub const LARGEST_CURSOR: u32 = 64;

/// The largest pointer coordinate: the right or lower edge of the picture.
pub const POINTER_RANGE: u16 = 32767;

/// The highest key or button code (linux/input-event-codes.h, KEY_MAX).
pub const HIGHEST_CODE: u16 = 0x2ff;

/// The most wheel movement in one message, in 1/120 of a detent: 100 detents.
pub const MOST_WHEEL: i32 = 12_000;

/// The longest message: a pointer image.
pub const LONGEST: usize = 5 * 4 + (LARGEST_CURSOR * LARGEST_CURSOR) as usize * PIXEL_BYTES;

/// A message is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Its first word names no message.
    #[error("message {kind} is not known")]
    Unknown {
        /// The word.
        kind: u32,
    },
    /// It is too short, too long, or has no first word.
    #[error("message {kind} has {length} bytes, which is not its length")]
    Length {
        /// Which one, 0 without a first word.
        kind: u32,
        /// Bytes found.
        length: usize,
    },
    /// A field is out of range.
    #[error("message {kind}: {field} {value} is not allowed")]
    Field {
        /// Which one.
        kind: u32,
        /// The field.
        field: &'static str,
        /// What was found.
        value: i64,
    },
}

/// What the pointer looks like.
#[derive(Clone, PartialEq, Eq)]
pub struct CursorImage {
    /// At most [`LARGEST_CURSOR`] each way.
    pub size: Size,
    /// Column of the hot spot, within the image.
    pub hot_x: u32,
    /// Row of the hot spot, within the image.
    pub hot_y: u32,
    /// Rows without gaps; blue, green, red, alpha, as the guest gives them.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for CursorImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { size, hot_x, hot_y, .. } = self;
        write!(f, "CursorImage({} x {}, hot {hot_x},{hot_y})", size.width, size.height)
    }
}

/// From the VM process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToViewer {
    /// The first message.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// The picture has this size from now on; `None` shows nothing. A message with a size carries
    /// the descriptor of the frame's memory, and damage of all of it follows; no other comes before
    /// that is acknowledged.
    Configure {
        /// Names this frame in [`Self::Damage`].
        serial: u32,
        /// Its size.
        size: Option<Size>,
        /// Bytes from row to row; at least 4 times the width, 0 without a size.
        stride: u32,
    },
    /// Parts of the frame changed. No more come until [`FromViewer::Acknowledge`].
    Damage {
        /// The frame.
        serial: u32,
        /// Within the frame.
        damage: Damage,
    },
    /// The pointer's looks; `None` hides it.
    Cursor(Option<CursorImage>),
    /// Where the guest has put the pointer.
    CursorPosition {
        /// Column of the hot spot.
        x: i32,
        /// Row of the hot spot.
        y: i32,
    },
    /// The keyboard's lamps: bit 0 Num Lock, 1 Caps Lock, 2 Scroll Lock (`LED_NUML` and so on).
    Leds(u32),
}

/// From a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromViewer {
    /// The picture should have this size; the guest decides.
    Resize {
        /// In pixels.
        size: Size,
        /// Width of the visible area in millimetres, 0 when not known.
        width_mm: u16,
        /// Its height.
        height_mm: u16,
    },
    /// The damage of this frame has been read; more may come.
    Acknowledge {
        /// The frame.
        serial: u32,
    },
    /// A key went down or up. Repeating is the guest's business.
    Key {
        /// `KEY_*` of linux/input-event-codes.h, 1 to [`HIGHEST_CODE`].
        code: u16,
        /// Down.
        pressed: bool,
    },
    /// The pointer is there.
    Pointer {
        /// 0 (left edge) to [`POINTER_RANGE`] (right edge).
        x: u16,
        /// 0 (upper edge) to [`POINTER_RANGE`] (lower edge).
        y: u16,
    },
    /// A button of the pointer went down or up.
    Button {
        /// `BTN_*` of linux/input-event-codes.h.
        code: u16,
        /// Down.
        pressed: bool,
    },
    /// The wheel turned, in 1/120 of a detent, at most [`MOST_WHEEL`].
    Wheel {
        /// Away from the person is positive.
        vertical: i32,
        /// To the right is positive.
        horizontal: i32,
    },
}

/// Words of one message, in order.
struct Words<'a> {
    kind: u32,
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Words<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut words = Self { kind: 0, bytes, length: bytes.len() };
        words.kind = words.next()?;
        Ok(words)
    }

    fn next(&mut self) -> Result<u32, MessageError> {
        let (word, rest) = self.bytes.split_first_chunk::<4>().ok_or_else(|| self.length())?;
        self.bytes = rest;
        Ok(u32::from_le_bytes(*word))
    }

    fn signed(&mut self) -> Result<i32, MessageError> {
        self.next().map(u32::cast_signed)
    }

    /// A number up to `most`.
    fn up_to(&mut self, field: &'static str, most: u32) -> Result<u32, MessageError> {
        let value = self.next()?;
        if value <= most { Ok(value) } else { Err(self.refuse(field, value.into())) }
    }

    fn short(&mut self, field: &'static str, most: u16) -> Result<u16, MessageError> {
        // `most` fits, so the value does.
        self.up_to(field, most.into()).map(|value| value as u16)
    }

    fn truth(&mut self, field: &'static str) -> Result<bool, MessageError> {
        self.up_to(field, 1).map(|value| value == 1)
    }

    fn code(&mut self) -> Result<u16, MessageError> {
        match self.short("code", HIGHEST_CODE)? {
            0 => Err(self.refuse("code", 0)),
            code => Ok(code),
        }
    }

    fn wheel(&mut self, field: &'static str) -> Result<i32, MessageError> {
        let value = self.signed()?;
        if value.unsigned_abs() <= MOST_WHEEL.unsigned_abs() {
            Ok(value)
        } else {
            Err(self.refuse(field, value.into()))
        }
    }

    fn size(&mut self, most: u32) -> Result<Size, MessageError> {
        let (width, height) = (self.up_to("width", most)?, self.up_to("height", most)?);
        Size::new(width, height).ok_or_else(|| self.refuse("width or height", 0))
    }

    fn refuse(&self, field: &'static str, value: i64) -> MessageError {
        MessageError::Field { kind: self.kind, field, value }
    }

    fn length(&self) -> MessageError {
        MessageError::Length { kind: self.kind, length: self.length }
    }

    fn end(&self) -> Result<(), MessageError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.length()) }
    }
}

fn packet(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl ToViewer {
    /// As it goes over the socket.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { version } => packet(&[1, *version]),
            Self::Configure { serial, size, stride } => {
                let (width, height) = size.map_or((0, 0), |size| (size.width, size.height));
                packet(&[2, *serial, width, height, *stride])
            }
            Self::Damage { serial, damage } => {
                let parts = damage.rectangles();
                let mut words = vec![3, *serial, parts.len() as u32];
                words.extend(parts.iter().flat_map(|r| [r.x, r.y, r.width, r.height]));
                packet(&words)
            }
            Self::Cursor(None) => packet(&[4, 0, 0, 0, 0]),
            Self::Cursor(Some(image)) => {
                let Size { width, height } = image.size;
                let mut bytes = packet(&[4, width, height, image.hot_x, image.hot_y]);
                bytes.extend_from_slice(&image.pixels);
                bytes
            }
            Self::CursorPosition { x, y } => packet(&[5, x.cast_unsigned(), y.cast_unsigned()]),
            Self::Leds(bits) => packet(&[6, *bits]),
        }
    }

    /// From the socket.
    ///
    /// # Errors
    /// It is no message, or a field is out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut words = Words::new(bytes)?;
        let message = match words.kind {
            1 => Self::Hello { version: words.next()? },
            2 => {
                let serial = words.next()?;
                let width = words.up_to("width", LARGEST_SIDE)?;
                let height = words.up_to("height", LARGEST_SIDE)?;
                let stride = words.next()?;
                let size = Size::new(width, height);
                let least = width * PIXEL_BYTES as u32;
                if (size.is_none() && (width, height, stride) != (0, 0, 0)) || stride < least {
                    return Err(words.refuse("stride", stride.into()));
                }
                Self::Configure { serial, size, stride }
            }
            3 => {
                let serial = words.next()?;
                let count = words.up_to("count", MOST_RECTANGLES as u32)?;
                let mut damage = Damage::default();
                for _ in 0..count {
                    let mut side = |field| words.up_to(field, LARGEST_SIDE);
                    damage.add(Rectangle {
                        x: side("x")?,
                        y: side("y")?,
                        width: side("width")?,
                        height: side("height")?,
                    });
                }
                Self::Damage { serial, damage }
            }
            4 => return Self::decode_cursor(words),
            5 => Self::CursorPosition { x: words.signed()?, y: words.signed()? },
            6 => Self::Leds(words.up_to("bits", 7)?),
            kind => return Err(MessageError::Unknown { kind }),
        };
        words.end()?;
        Ok(message)
    }

    fn decode_cursor(mut words: Words<'_>) -> Result<Self, MessageError> {
        if words.bytes == [0; 16] {
            return Ok(Self::Cursor(None));
        }
        let size = words.size(LARGEST_CURSOR)?;
        let hot_x = words.up_to("hot x", size.width - 1)?;
        let hot_y = words.up_to("hot y", size.height - 1)?;
        if words.bytes.len() != (size.width * size.height) as usize * PIXEL_BYTES {
            return Err(words.length());
        }
        Ok(Self::Cursor(Some(CursorImage { size, hot_x, hot_y, pixels: words.bytes.to_vec() })))
    }
}

impl FromViewer {
    /// As it goes over the socket.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Resize { size, width_mm, height_mm } => {
                packet(&[1, size.width, size.height, width_mm.into(), height_mm.into()])
            }
            Self::Acknowledge { serial } => packet(&[2, serial]),
            Self::Key { code, pressed } => packet(&[3, code.into(), pressed.into()]),
            Self::Pointer { x, y } => packet(&[4, x.into(), y.into()]),
            Self::Button { code, pressed } => packet(&[5, code.into(), pressed.into()]),
            Self::Wheel { vertical, horizontal } => {
                packet(&[6, vertical.cast_unsigned(), horizontal.cast_unsigned()])
            }
        }
    }

    /// From the socket.
    ///
    /// # Errors
    /// It is no message, or a field is out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut words = Words::new(bytes)?;
        let message = match words.kind {
            1 => Self::Resize {
                size: words.size(LARGEST_SIDE)?,
                width_mm: words.short("width in mm", u16::MAX)?,
                height_mm: words.short("height in mm", u16::MAX)?,
            },
            2 => Self::Acknowledge { serial: words.next()? },
            3 => Self::Key { code: words.code()?, pressed: words.truth("pressed")? },
            4 => Self::Pointer {
                x: words.short("x", POINTER_RANGE)?,
                y: words.short("y", POINTER_RANGE)?,
            },
            5 => Self::Button { code: words.code()?, pressed: words.truth("pressed")? },
            6 => Self::Wheel {
                vertical: words.wheel("vertical")?,
                horizontal: words.wheel("horizontal")?,
            },
            kind => return Err(MessageError::Unknown { kind }),
        };
        words.end()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_viewer() -> Vec<FromViewer> {
        let size = Size::new(1920, 1080).unwrap();
        vec![
            FromViewer::Resize { size, width_mm: 508, height_mm: 0 },
            FromViewer::Acknowledge { serial: u32::MAX },
            FromViewer::Key { code: 30, pressed: true },
            FromViewer::Pointer { x: 0, y: POINTER_RANGE },
            FromViewer::Button { code: 0x110, pressed: false },
            FromViewer::Wheel { vertical: -120, horizontal: MOST_WHEEL },
        ]
    }

    fn to_viewer() -> Vec<ToViewer> {
        let size = Size::new(2, 1).unwrap();
        let part = Rectangle { x: 1, y: 2, width: 3, height: 4 };
        vec![
            ToViewer::Hello { version: VERSION },
            ToViewer::Configure { serial: 3, size: Some(size), stride: 8 },
            ToViewer::Configure { serial: 4, size: None, stride: 0 },
            ToViewer::Damage { serial: 3, damage: [part].into_iter().collect() },
            ToViewer::Cursor(None),
            ToViewer::Cursor(Some(CursorImage { size, hot_x: 1, hot_y: 0, pixels: vec![9; 8] })),
            ToViewer::CursorPosition { x: -1, y: 5 },
            ToViewer::Leds(5),
        ]
    }

    #[test]
    fn messages_come_out_as_they_went_in_and_have_exactly_their_length() {
        for message in from_viewer() {
            let mut bytes = message.encode();
            assert_eq!(FromViewer::decode(&bytes), Ok(message));
            bytes.push(0);
            assert!(FromViewer::decode(&bytes).is_err());
            for length in 0..bytes.len() - 1 {
                assert!(FromViewer::decode(&bytes[..length]).is_err(), "{message:?}");
            }
        }
        for message in to_viewer() {
            let mut bytes = message.encode();
            assert!(bytes.len() <= LONGEST);
            assert_eq!(ToViewer::decode(&bytes), Ok(message.clone()));
            bytes.push(0);
            assert!(ToViewer::decode(&bytes).is_err());
            for length in 0..bytes.len() - 1 {
                assert!(ToViewer::decode(&bytes[..length]).is_err(), "{message:?}");
            }
        }
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        let bad: [&[u32]; 12] = [
            &[1, 0, 600, 0, 0],
            &[1, 800, LARGEST_SIDE + 1, 0, 0],
            &[1, 800, 600, 0x1_0000, 0],
            &[3, 0, 1],
            &[3, 0x300, 1],
            &[3, 30, 2],
            &[4, 32768, 0],
            &[5, 0x110, u32::MAX],
            &[6, 12_001, 0],
            &[6, 0, i32::MIN.cast_unsigned()],
            &[7],
            &[0],
        ];
        for words in bad {
            assert!(FromViewer::decode(&packet(words)).is_err(), "{words:?}");
        }
        let bad: [&[u32]; 9] = [
            &[2, 1, 10, 10, 39],
            &[2, 1, 0, 10, 40],
            &[2, 1, 0, 0, 4],
            &[2, 1, LARGEST_SIDE + 1, 1, u32::MAX],
            &[3, 1, 17],
            &[3, 1, 1, u32::MAX, 0, 1, 1],
            &[4, 1, 1, 1, 0, 7],
            &[4, 65, 1, 0, 0],
            &[6, 8],
        ];
        for words in bad {
            assert!(ToViewer::decode(&packet(words)).is_err(), "{words:?}");
        }
    }

    #[test]
    fn noise_never_panics() {
        // A multiplicative generator is noise enough to vary kinds, lengths and values.
        let mut state = 1_u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let noise = state.to_le_bytes().repeat(8);
            let mut bytes = packet(&[(state >> 60) as u32]);
            bytes.extend_from_slice(&noise[..(state >> 40) as usize % 60]);
            if let Ok(message) = FromViewer::decode(&bytes) {
                assert_eq!(message.encode(), bytes);
            }
            let _ = ToViewer::decode(&bytes);
        }
    }
}
