//! Sizes and rectangles in pixels, and what of a picture changed.

/// The longest side of a picture in pixels; longer ones are refused. No graphics card of today
/// scans out more.
pub const LARGEST_SIDE: u32 = 16384;

/// Rectangles kept apart in a [`Damage`]; more are made one.
pub const MOST_RECTANGLES: usize = 16;

/// A picture's size in pixels, each side 1 to [`LARGEST_SIDE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// A size, if it is allowed.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Option<Self> {
        let allowed = 1..=LARGEST_SIDE;
        (allowed.contains(&width) && allowed.contains(&height)).then_some(Self { width, height })
    }

    /// All of it.
    #[must_use]
    pub fn whole(self) -> Rectangle {
        Rectangle { x: 0, y: 0, width: self.width, height: self.height }
    }
}

/// A part of a picture, in pixels; empty when a side is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rectangle {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rectangle {
    /// Nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// One column past the last; too large for 32 bits in rectangles nobody checked.
    #[must_use]
    pub fn right(&self) -> u64 {
        u64::from(self.x) + u64::from(self.width)
    }

    /// One row past the last.
    #[must_use]
    pub fn bottom(&self) -> u64 {
        u64::from(self.y) + u64::from(self.height)
    }

    /// All of `self` lies in `outer`.
    #[must_use]
    pub fn is_inside(&self, outer: &Self) -> bool {
        self.x >= outer.x
            && self.y >= outer.y
            && self.right() <= outer.right()
            && self.bottom() <= outer.bottom()
    }

    /// What lies in both; empty when nothing does.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let side = |end: u64, start: u32| {
            // Two sides start at 32-bit numbers and are that long at most.
            u32::try_from(end.saturating_sub(start.into())).unwrap_or(u32::MAX)
        };
        let width = side(self.right().min(other.right()), x);
        let height = side(self.bottom().min(other.bottom()), y);
        if width == 0 || height == 0 { Self::default() } else { Self { x, y, width, height } }
    }

    /// The smallest that holds both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.is_empty() {
            return *other;
        }
        if other.is_empty() {
            return *self;
        }
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let side = |end: u64, start: u32| u32::try_from(end - u64::from(start)).unwrap_or(u32::MAX);
        Self {
            x,
            y,
            width: side(self.right().max(other.right()), x),
            height: side(self.bottom().max(other.bottom()), y),
        }
    }
}

/// What of a picture changed: few rectangles, whatever happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage(Vec<Rectangle>);

impl Damage {
    /// Adds a part.
    pub fn add(&mut self, part: Rectangle) {
        if part.is_empty() || self.0.iter().any(|old| part.is_inside(old)) {
            return;
        }
        self.0.retain(|old| !old.is_inside(&part));
        self.0.push(part);
        if self.0.len() > MOST_RECTANGLES {
            let all = self.0.iter().fold(Rectangle::default(), |all, one| all.union(one));
            self.0 = vec![all];
        }
    }

    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts; they may overlap.
    #[must_use]
    pub fn rectangles(&self) -> &[Rectangle] {
        &self.0
    }
}

impl FromIterator<Rectangle> for Damage {
    fn from_iter<T: IntoIterator<Item = Rectangle>>(parts: T) -> Self {
        let mut damage = Self::default();
        parts.into_iter().for_each(|part| damage.add(part));
        damage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rectangle(x: u32, y: u32, width: u32, height: u32) -> Rectangle {
        Rectangle { x, y, width, height }
    }

    #[test]
    fn sizes_have_limits() {
        assert!(Size::new(0, 1).is_none() && Size::new(1, LARGEST_SIDE + 1).is_none());
        assert!(Size::new(LARGEST_SIDE, 1).is_some());
    }

    #[test]
    fn rectangles_at_the_end_of_numbers_do_not_wrap() {
        let all = rectangle(0, 0, 100, 50);
        let far = rectangle(u32::MAX, u32::MAX, u32::MAX, u32::MAX);
        assert!(!far.is_inside(&all));
        assert!(far.intersection(&all).is_empty());
        assert!(!rectangle(1, 0, u32::MAX, 1).is_inside(&all));
        assert_eq!(
            rectangle(90, 40, u32::MAX, u32::MAX).intersection(&all),
            rectangle(90, 40, 10, 10)
        );
        assert_eq!(rectangle(1, 1, 1, 1).union(&far).x, 1);
    }

    #[test]
    fn damage_keeps_what_is_not_covered_and_stays_small() {
        let mut damage = Damage::default();
        damage.add(rectangle(0, 0, 10, 10));
        damage.add(rectangle(2, 2, 3, 3));
        damage.add(rectangle(5, 5, 0, 9));
        assert_eq!(damage.rectangles(), [rectangle(0, 0, 10, 10)]);
        damage.add(rectangle(0, 0, 20, 20));
        assert_eq!(damage.rectangles(), [rectangle(0, 0, 20, 20)]);
        for n in 0..40 {
            damage.add(rectangle(100 * n, 7, 10, 2));
        }
        assert!(damage.rectangles().len() <= MOST_RECTANGLES);
        let covered = |part| damage.rectangles().iter().any(|one| Rectangle::is_inside(&part, one));
        assert!((0..40).all(|n| covered(rectangle(100 * n, 7, 10, 2))));
        assert!(covered(rectangle(0, 0, 20, 20)));
    }
}
