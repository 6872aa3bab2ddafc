//! Hostile commands: resources, backings, rectangles and blobs that lie; what is painted must lie
//! in the picture. Run: `cargo +nightly fuzz run gpu` in `crates/virtio`.
#![no_main]

use display::{CursorImage, FrameError, Rectangle, Scanout, Size};
use libfuzzer_sys::fuzz_target;
use virtio::gpu::{Gpu, Mode};
use virtio::test_support::{BUFFERS, Random, attack_with};

/// Checks instead of showing.
#[derive(Default)]
struct Checked(Option<Size>);

impl Scanout for Checked {
    fn configure(&mut self, size: Option<Size>) -> Result<(), FrameError> {
        self.0 = size;
        Ok(())
    }

    fn paint(&mut self, area: Rectangle, fill: &mut dyn FnMut(u32, u32, &mut [u8])) {
        let size = self.0.expect("something is shown");
        assert!(area.is_inside(&size.whole()));
        let mut row = vec![0; area.width as usize * 4];
        for y in area.y..area.y + area.height {
            fill(y, area.x, &mut row);
        }
    }

    fn set_cursor(&mut self, image: Option<CursorImage>) {
        if let Some(image) = image {
            assert!(image.hot_x < image.size.width && image.hot_y < image.size.height);
            assert_eq!(image.pixels.len() as u32, image.size.width * image.size.height * 4);
        }
    }

    fn move_cursor(&mut self, _x: i32, _y: i32) {}
}

fuzz_target!(|bytes: &[u8]| {
    let mode = Mode::new(Size { width: 1280, height: 800 });
    let (gpu, control) = Gpu::new("gpu0", mode, Box::new(Checked::default())).unwrap();
    attack_with(Box::new(gpu), &mut Random::from_bytes(bytes), |_, random| {
        if let Some(size) = Size::new(random.below(17_000) as u32, random.below(17_000) as u32)
            && random.one_in(8)
        {
            control.set_mode(Mode::new(size));
        }
        let kinds = [
            0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x106, 0x107, 0x10a, 0x10c, 0x10d, 0x300,
            0x301, 0x108,
        ];
        let mut words = vec![random.pick(&kinds), random.below(4) as u32, 1, 2, 3, 4];
        // Mostly small numbers, which are ids, sides and counts; now and then memory and extremes.
        words.extend((0..26).map(|_| match random.below(8) {
            0 => BUFFERS as u32,
            1 => random.next() as u32,
            2 => 4096,
            _ => random.below(5) as u32,
        }));
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    });
});
