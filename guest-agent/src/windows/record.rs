//! Holding what is told of a window to the protocol's limits, whatever a program said of it.

use proto::v1::{Extents, Rectangle, SizeHints, Window};
use window_link::limits;

/// Cuts and clamps to what the protocol allows. What is told after this, no host refuses for its form.
pub fn clean(window: &mut Window) {
    window.geometry = Some(place(window.geometry.unwrap_or_default()));
    window.title = text(&window.title, limits::TITLE);
    window.instance = text(&window.instance, limits::CLASS);
    window.class = text(&window.class, limits::CLASS);
    if window.application.len() > limits::APPLICATION
        || window.application.contains(char::is_control)
    {
        window.application.clear();
    }
    window.shadow = window.shadow.map(shadow);
    window.size_hints = window.size_hints.map(size_hints);
    window.opacity = window.opacity.min(u32::from(u16::MAX));
    let all = window.geometry.unwrap_or_default();
    window.shape = shape(&window.shape, all.width, all.height);
}

/// A place and size that windows can have.
#[must_use]
pub fn place(rectangle: Rectangle) -> Rectangle {
    let coordinate = |value: i32| value.clamp(-limits::COORDINATE, limits::COORDINATE - 1);
    let width = rectangle.width.clamp(1, limits::SIDE);
    let most = u32::try_from(limits::AREA / u64::from(width)).unwrap_or(limits::SIDE);
    Rectangle {
        x: coordinate(rectangle.x),
        y: coordinate(rectangle.y),
        width,
        height: rectangle.height.clamp(1, limits::SIDE.min(most)),
    }
}

/// Text without control characters, of at most `most` bytes.
#[must_use]
pub fn text(text: &str, most: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(most));
    for character in text.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if clean.len() + character.len_utf8() > most {
            break;
        }
        clean.push(character);
    }
    clean
}

fn shadow(extents: Extents) -> Extents {
    let side = |value: u32| value.min(limits::SHADOW);
    Extents {
        left: side(extents.left),
        right: side(extents.right),
        top: side(extents.top),
        bottom: side(extents.bottom),
    }
}

fn size_hints(hints: SizeHints) -> SizeHints {
    let side = |value: u32| value.min(limits::SIDE);
    let most = |most: u32, least: u32| if most < least { 0 } else { side(most) };
    SizeHints {
        min_width: side(hints.min_width),
        min_height: side(hints.min_height),
        max_width: most(hints.max_width, hints.min_width),
        max_height: most(hints.max_height, hints.min_height),
        base_width: side(hints.base_width),
        base_height: side(hints.base_height),
        width_increment: side(hints.width_increment),
        height_increment: side(hints.height_increment),
    }
}

/// Few rectangles that cover all of these and lie in the window. Neighbours in the list, which servers
/// sort from top to bottom, become one where there are too many: the shape gets coarser, and loses nothing.
fn shape(rectangles: &[Rectangle], width: u32, height: u32) -> Vec<Rectangle> {
    let parts: Vec<super::damage::Part> = rectangles
        .iter()
        .filter_map(|r| super::damage::Part::clamped(r.x, r.y, r.width, r.height, (width, height)))
        .collect();
    let together = parts.len().div_ceil(limits::SHAPE).max(1);
    let merged = parts.chunks(together).filter_map(|chunk| {
        let whole = chunk.iter().copied().reduce(super::damage::Part::union)?;
        Some(whole.rectangle())
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_told_keeps_to_the_limits(
            x: i32, y: i32, width: u32, height: u32, title in ".{0,600}", class in "\\PC{0,100}", opacity: u32,
            hints in proptest::array::uniform4(any::<u32>()),
            shape in proptest::collection::vec((any::<i32>(), any::<i32>(), any::<u32>(), any::<u32>()), 0..600),
        ) {
            let mut window = Window {
                geometry: Some(Rectangle { x, y, width, height }),
                title: title.clone(),
                class: class.clone(),
                application: title,
                opacity,
                shadow: Some(Extents { left: width, right: height, top: opacity, bottom: 0 }),
                size_hints: Some(SizeHints { min_width: hints[0], max_width: hints[1], min_height: hints[2], max_height: hints[3], ..SizeHints::default() }),
                shape: shape.into_iter().map(|(x, y, width, height)| Rectangle { x, y, width, height }).collect(),
                ..Window::default()
            };
            clean(&mut window);
            let geometry = window.geometry.unwrap();
            prop_assert!((1..=limits::SIDE).contains(&geometry.width) && (1..=limits::SIDE).contains(&geometry.height));
            prop_assert!(u64::from(geometry.width) * u64::from(geometry.height) <= limits::AREA);
            prop_assert!((-32768..32768).contains(&geometry.x) && (-32768..32768).contains(&geometry.y));
            prop_assert!(window.title.len() <= limits::TITLE && !window.title.contains(char::is_control));
            prop_assert!(window.class.len() <= limits::CLASS);
            prop_assert!(window.application.len() <= limits::APPLICATION);
            prop_assert!(window.opacity <= 65535);
            prop_assert!(window.shape.len() <= limits::SHAPE);
            let hints = window.size_hints.unwrap();
            prop_assert!(hints.max_width == 0 || hints.max_width >= hints.min_width);
            prop_assert!(hints.max_width <= limits::SIDE && hints.min_width <= limits::SIDE);
            let again = { let mut again = window.clone(); clean(&mut again); again };
            prop_assert_eq!(again, window);
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(text("a\u{1b}[2J\nü", 7), "a [2J ");
        assert_eq!(text("üü", 3), "ü");
    }

    #[test]
    fn a_shape_of_very_many_pieces_still_covers_them() {
        let pieces: Vec<Rectangle> = (0..100_000)
            .map(|n| Rectangle { x: n % 100, y: n / 100, width: 1, height: 1 })
            .collect();
        let few = shape(&pieces, 100, 1000);
        assert!(few.len() <= limits::SHAPE);
        let covered = |x: i32, y: i32| {
            few.iter().any(|r| {
                (r.x..r.x + r.width as i32).contains(&x)
                    && (r.y..r.y + r.height as i32).contains(&y)
            })
        };
        assert!(pieces.iter().step_by(997).all(|piece| covered(piece.x, piece.y)));
    }
}
