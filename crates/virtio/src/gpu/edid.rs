//! The identity of the guest's monitor (VESA E-EDID, release A, revision 2: EDID 1.4), made for any
//! picture size. A detailed timing of the base block holds 4095 pixels a side and 655.35 MHz; for
//! more a DisplayID 1.3 extension carries the timing, and the base block a usual one.

use display::Size;

/// Bytes of a block.
const BLOCK: usize = 128;
/// Pictures per second.
const REFRESH: u64 = 60;
/// Pixels a side that 12 bits hold.
const LARGEST_DETAILED: u32 = 4095;
/// Clock units of 10 kHz that 16 bits hold.
const FASTEST_DETAILED: u64 = 0xffff;
/// Shown as the detailed timing of the base block where the wanted one does not fit.
const FALLBACK: Size = Size { width: 1920, height: 1080 };

/// A timing after VESA CVT 1.2, reduced blanking.
struct Timing {
    size: Size,
    /// In 10 kHz.
    clock: u64,
    horizontal_blank: u32,
    horizontal_front: u32,
    horizontal_sync: u32,
    vertical_blank: u32,
    vertical_front: u32,
    vertical_sync: u32,
}

impl Timing {
    fn new(size: Size) -> Self {
        // CVT 1.2, table 4: reduced blanking.
        const HORIZONTAL_BLANK: u32 = 160;
        const VERTICAL_FRONT: u32 = 3;
        const LEAST_BACK: u32 = 6;
        const LEAST_BLANK_MICROSECONDS: u64 = 460;
        let Size { width, height } = size;
        let vertical_sync = sync_lines(size);
        // Lines that 460 microseconds take when the rest of a picture's time shows `height` lines.
        let shown_time = 1_000_000 / REFRESH - LEAST_BLANK_MICROSECONDS;
        let lines = LEAST_BLANK_MICROSECONDS * u64::from(height) / shown_time + 1;
        let least = VERTICAL_FRONT + vertical_sync + LEAST_BACK;
        let vertical_blank = u32::try_from(lines).unwrap_or(u32::MAX).max(least);
        let total = u64::from(width + HORIZONTAL_BLANK) * u64::from(height + vertical_blank);
        // In steps of 0.25 MHz, rounded down (CVT 1.2, 5.4). Less than 10 MHz is taken for a broken
        // identity; tiny pictures come more often instead.
        let clock = (total * REFRESH / 250_000 * 25).max(1000);
        Self {
            size,
            clock,
            horizontal_blank: HORIZONTAL_BLANK,
            horizontal_front: 48,
            horizontal_sync: 32,
            vertical_blank,
            vertical_front: VERTICAL_FRONT,
            vertical_sync,
        }
    }

    fn fits_detailed(&self) -> bool {
        self.size.width <= LARGEST_DETAILED
            && self.size.height <= LARGEST_DETAILED
            && self.vertical_blank <= LARGEST_DETAILED
            && self.clock <= FASTEST_DETAILED
    }

    /// E-EDID A2, 3.10.2: detailed timing descriptor. Fits, as the caller has seen to.
    fn detailed(&self, width_mm: u16, height_mm: u16) -> [u8; 18] {
        let (width, height) = (self.size.width, self.size.height);
        let low = |value: u32| value as u8;
        // The upper four bits of two numbers of twelve.
        let high = |first: u32, second: u32| (first >> 8 << 4) as u8 | (second >> 8) as u8;
        let (width_mm, height_mm) = (u32::from(width_mm).min(4095), u32::from(height_mm).min(4095));
        let mut bytes = [0; 18];
        bytes[..2].copy_from_slice(&(self.clock as u16).to_le_bytes());
        bytes[2] = low(width);
        bytes[3] = low(self.horizontal_blank);
        bytes[4] = high(width, self.horizontal_blank);
        bytes[5] = low(height);
        bytes[6] = low(self.vertical_blank);
        bytes[7] = high(height, self.vertical_blank);
        bytes[8] = low(self.horizontal_front);
        bytes[9] = low(self.horizontal_sync);
        bytes[10] = (self.vertical_front << 4 | self.vertical_sync) as u8;
        bytes[12] = low(width_mm);
        bytes[13] = low(height_mm);
        bytes[14] = high(width_mm, height_mm);
        // Digital separate sync, horizontal positive and vertical negative, as CVT has it.
        bytes[17] = 0x1a;
        bytes
    }

    /// DisplayID 1.3, 4.4.1: Type I detailed timing, preferred.
    fn display_id(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let clock = (self.clock - 1).min(0xff_ffff) as u32;
        bytes[..3].copy_from_slice(&clock.to_le_bytes()[..3]);
        // Preferred; the aspect ratio is none of those listed.
        bytes[3] = 0x80 | 0x08;
        // All but the clock are one less than they say. Bit 15 of a front porch: positive sync.
        let fields = [
            self.size.width,
            self.horizontal_blank,
            self.horizontal_front,
            self.horizontal_sync,
            self.size.height,
            self.vertical_blank,
            self.vertical_front,
            self.vertical_sync,
        ];
        for (place, field) in bytes[4..].chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&((field - 1) as u16).to_le_bytes());
        }
        bytes[9] |= 0x80;
        bytes
    }
}

/// The length of the vertical sync names the aspect ratio (CVT 1.2, table 2).
fn sync_lines(size: Size) -> u32 {
    let is = |across: u32, down: u32| size.height * across / down == size.width;
    match () {
        () if is(4, 3) => 4,
        () if is(16, 9) => 5,
        () if is(16, 10) => 6,
        () if is(5, 4) || is(15, 9) => 7,
        () => 10,
    }
}

/// Millimetres at 96 dots per inch, what a desktop takes for scale 1.
fn millimetres(pixels: u32) -> u16 {
    u16::try_from(pixels * 254 / 960).unwrap_or(u16::MAX).max(1)
}

/// The identity of a monitor that shows `size`, `width_mm` x `height_mm` large (0: at 96 dots per
/// inch). 128 bytes, or 256 with an extension.
pub(super) fn edid(size: Size, width_mm: u16, height_mm: u16) -> Vec<u8> {
    let given = width_mm > 0 && height_mm > 0;
    let width_mm = if given { width_mm } else { millimetres(size.width) };
    let height_mm = if given { height_mm } else { millimetres(size.height) };
    let wanted = Timing::new(size);
    let fits = wanted.fits_detailed();
    let mut block = base(width_mm, height_mm);
    let detailed = if fits {
        wanted.detailed(width_mm, height_mm)
    } else {
        Timing::new(FALLBACK).detailed(width_mm, height_mm)
    };
    block[54..72].copy_from_slice(&detailed);
    block[126] = u8::from(!fits);
    finish(&mut block);
    let mut blocks = block.to_vec();
    if !fits {
        blocks.extend_from_slice(&extension(&wanted, width_mm, height_mm));
    }
    blocks
}

fn base(width_mm: u16, height_mm: u16) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    // 3.3: header.
    block[..8].copy_from_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    // 3.4: maker `MHV`, five bits a letter, big-endian; product and serial number; made in 2026.
    let maker = b"MHV".iter().fold(0_u16, |id, letter| id << 5 | u16::from(letter - b'@'));
    block[8..10].copy_from_slice(&maker.to_be_bytes());
    block[10..12].copy_from_slice(&1_u16.to_le_bytes());
    block[12..16].copy_from_slice(&1_u32.to_le_bytes());
    block[16] = 1;
    block[17] = (2026_u32 - 1990) as u8;
    // 3.5: version 1.4.
    (block[18], block[19]) = (1, 4);
    // 3.6: digital, 8 bits a colour, DisplayPort; size in cm; gamma 2.2; RGB 4:4:4 only, sRGB, and
    // the preferred timing is the native one.
    block[20] = 0x80 | 0x20 | 0x05;
    let centimetres = |mm: u16| (u32::from(mm) + 5) / 10;
    let (across, down) = (centimetres(width_mm), centimetres(height_mm));
    if let (Ok(across @ 1..), Ok(down @ 1..)) = (u8::try_from(across), u8::try_from(down)) {
        (block[21], block[22]) = (across, down);
    }
    block[23] = 220 - 100;
    block[24] = 0x04 | 0x02;
    // 3.7: the colours of sRGB, ten bits each.
    let colours = [0.640, 0.330, 0.300, 0.600, 0.150, 0.060, 0.3127, 0.3290];
    let tenths: [u16; 8] = colours.map(|part: f64| (part * 1024.0).round() as u16);
    for (at, four) in tenths.chunks_exact(4).enumerate() {
        block[25 + at] = four.iter().fold(0, |bits, part| bits << 2 | (part & 3) as u8);
    }
    for (at, part) in tenths.iter().enumerate() {
        block[27 + at] = (part >> 2) as u8;
    }
    // 3.8: established timings every guest knows: 640x480, 800x600, 1024x768 at 60 Hz.
    block[35] = 0x20 | 0x01;
    block[36] = 0x08;
    // 3.9: no standard timings.
    block[38..54].fill(1);
    // 3.10.3: a name, and nothing in the other two places.
    block[72..90].copy_from_slice(&text(0xfc, "macrohard"));
    block[90 + 3] = 0x10;
    block[108 + 3] = 0x10;
    block
}

/// DisplayID 1.3, 4.2.2: the visible area in tenths of a millimetre and in pixels, gamma 2.2, aspect
/// ratio in hundredths from 1, eight bits a colour.
fn parameters(size: Size, width_mm: u16, height_mm: u16) -> [u8; 12] {
    let tenths = |mm: u16| u16::try_from(u32::from(mm) * 10).unwrap_or(u16::MAX);
    let pixels = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
    let (long, short) = (size.width.max(size.height), size.width.min(size.height));
    let mut bytes = [0; 12];
    let sides = [tenths(width_mm), tenths(height_mm), pixels(size.width), pixels(size.height)];
    bytes[..8].copy_from_slice(&sides.map(u16::to_le_bytes).concat());
    bytes[9] = 220 - 100;
    bytes[10] = u8::try_from(long * 100 / short - 100).unwrap_or(u8::MAX);
    bytes[11] = 0x77;
    bytes
}

/// 3.10.3: a descriptor of text, up to 13 letters.
fn text(tag: u8, words: &str) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[3] = tag;
    bytes[5..].fill(b' ');
    for (place, letter) in bytes[5..].iter_mut().zip(words.bytes().chain([b'\n'])) {
        *place = letter;
    }
    bytes
}

/// DisplayID 1.3 as an extension block (2.3 and annex B): one section.
fn extension(timing: &Timing, width_mm: u16, height_mm: u16) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[0] = 0x70;
    // A section: version 1.3, bytes of data blocks, a generic display, no further sections. It
    // reaches up to its checksum before the block's.
    let section = 1..BLOCK - 1;
    block[1] = 0x13;
    block[2] = (section.len() - 5) as u8;
    block[3] = 0x03;
    let mut at = 5;
    let mut add = |tag: u8, payload: &[u8]| {
        // Tag, revision 0, length (4.1).
        block[at..at + 3].copy_from_slice(&[tag, 0, payload.len() as u8]);
        block[at + 3..at + 3 + payload.len()].copy_from_slice(payload);
        at += 3 + payload.len();
    };
    // 4.2.1: maker, product, serial number, week, year from 2000, no name. As in the base block.
    add(0x00, &[b'M', b'H', b'V', 1, 0, 1, 0, 0, 0, 1, 26, 0]);
    add(0x01, &parameters(timing.size, width_mm, height_mm));
    add(0x03, &timing.display_id());
    // 4.2.10: DisplayPort with one link, 8 bits a colour, RGB only; nothing else.
    add(0x0f, &[0x81, 0, 0x02, 0, 0, 0, 0, 0, 0, 0]);
    let sum = block[section.start..section.end - 1].iter().fold(0_u8, |s, b| s.wrapping_add(*b));
    block[section.end - 1] = sum.wrapping_neg();
    finish(&mut block);
    block
}

/// The last byte makes the sum of a block 0.
fn finish(block: &mut [u8; BLOCK]) {
    let sum = block[..BLOCK - 1].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    block[BLOCK - 1] = sum.wrapping_neg();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::skipped;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn size(width: u32, height: u32) -> Size {
        Size::new(width, height).unwrap()
    }

    /// What edid-decode, which is not ours, says; `None` where it is not installed.
    fn decoded(bytes: &[u8]) -> Option<String> {
        let started = Command::new("edid-decode")
            .args(["--check", "--short-timings", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                skipped(&format!("edid-decode (Debian package edid-decode): {error}"));
                return None;
            }
        };
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        Some(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn any_size_has_an_identity_that_another_decoder_finds_right() {
        let sizes = [
            (640, 480),
            (800, 600),
            (1024, 768),
            (1280, 800),
            (1366, 768),
            (1920, 1080),
            (1921, 1081),
            (2560, 1440),
            (3840, 2160),
            (4095, 2160),
            (4096, 2160),
            (7680, 4320),
            (1080, 1920),
            (101, 67),
            (16384, 4096),
        ];
        for (width, height) in sizes {
            let bytes = edid(size(width, height), 0, 0);
            for block in bytes.chunks(BLOCK) {
                assert_eq!(block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            }
            let Some(text) = decoded(&bytes) else {
                return;
            };
            assert!(text.contains(&format!("{width}x{height}")), "{width}x{height}: {text}");
            assert!(text.contains("EDID conformity: PASS"), "{width}x{height}: {text}");
        }
    }

    #[test]
    fn sizes_that_fit_need_one_block() {
        for (sides, blocks) in
            [((1920, 1080), 1), ((3840, 2160), 1), ((4096, 1024), 2), ((1, 1), 1)]
        {
            assert_eq!(edid(size(sides.0, sides.1), 0, 0).len(), blocks * BLOCK, "{sides:?}");
        }
    }

    #[test]
    fn the_extremes_of_size_are_told_without_overflow() {
        for width in [1, 2, 4095, 4096, 16383, 16384] {
            for height in [1, 2, 4095, 4096, 16383, 16384] {
                for millimetres in [0, 1, u16::MAX] {
                    edid(size(width, height), millimetres, millimetres);
                }
            }
        }
    }

    #[test]
    fn the_timing_is_that_of_the_standard() {
        // CVT 1.2 reduced blanking as published for 1920x1080 at 60 Hz: 138.5 MHz, 2080 x 1111.
        let timing = Timing::new(size(1920, 1080));
        assert_eq!((timing.clock, timing.vertical_blank, timing.vertical_sync), (13850, 31, 5));
        // 2560x1600: 268.5 MHz, 1646 lines.
        let timing = Timing::new(size(2560, 1600));
        assert_eq!((timing.clock, timing.vertical_blank, timing.vertical_sync), (26850, 46, 6));
    }
}
