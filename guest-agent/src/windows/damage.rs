//! What of a window changed since it was last presented: a few rectangles, merged where there are too many.

use proto::v1::Rectangle;
use window_link::limits;

/// A part of a window: pixels from its left and top, `right` and `bottom` not inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Left.
    pub left: u32,
    /// Top.
    pub top: u32,
    /// First column to the right of it, more than `left`.
    pub right: u32,
    /// First row below it, more than `top`.
    pub bottom: u32,
}

impl Part {
    /// What of the rectangle lies in a window of this size.
    #[must_use]
    pub fn clamped(x: i32, y: i32, width: u32, height: u32, within: (u32, u32)) -> Option<Self> {
        let cut = |start: i32, length: u32, most: u32| {
            let most = i64::from(most);
            let from = i64::from(start).clamp(0, most);
            let to = (i64::from(start) + i64::from(length)).clamp(0, most);
            Some((u32::try_from(from).ok()?, u32::try_from(to).ok()?))
        };
        let (left, right) = cut(x, width, within.0)?;
        let (top, bottom) = cut(y, height, within.1)?;
        (left < right && top < bottom).then_some(Self { left, top, right, bottom })
    }

    /// The smallest that covers both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    fn covers(self, other: Self) -> bool {
        self.union(other) == self
    }

    fn area(self) -> u64 {
        u64::from(self.right - self.left) * u64::from(self.bottom - self.top)
    }

    /// As the protocol has it.
    #[must_use]
    pub fn rectangle(self) -> Rectangle {
        Rectangle {
            x: i32::try_from(self.left).unwrap_or(i32::MAX),
            y: i32::try_from(self.top).unwrap_or(i32::MAX),
            width: self.right - self.left,
            height: self.bottom - self.top,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Damage {
    /// Nothing changed.
    #[default]
    None,
    /// These parts.
    Parts(Vec<Part>),
    /// Everything, whatever the size is by the time it is presented.
    All,
}

impl Damage {
    /// Adds a part.
    pub fn add(&mut self, part: Part) {
        match self {
            Self::All => {}
            Self::None => *self = Self::Parts(vec![part]),
            Self::Parts(parts) => {
                if parts.iter().any(|held| held.covers(part)) {
                    return;
                }
                parts.retain(|held| !part.covers(*held));
                if parts.len() < limits::DAMAGE {
                    parts.push(part);
                    return;
                }
                // With the one that grows least.
                let grown = |held: &Part| held.union(part).area() - held.area();
                if let Some(nearest) = parts.iter_mut().min_by_key(|held| grown(held)) {
                    *nearest = nearest.union(part);
                }
            }
        }
    }

    /// Whether there is nothing to present.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part() -> impl Strategy<Value = Part> {
        (0_i32..300, 0_i32..300, 1_u32..90, 1_u32..90).prop_map(|(x, y, width, height)| {
            Part::clamped(x, y, width, height, (400, 400)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn all_that_was_added_is_covered_by_few_parts(added in proptest::collection::vec(part(), 1..200)) {
            let mut damage = Damage::None;
            for part in &added {
                damage.add(*part);
            }
            let Damage::Parts(parts) = damage else { panic!("nothing is held") };
            prop_assert!(parts.len() <= limits::DAMAGE);
            for part in added {
                prop_assert!(parts.iter().any(|held| held.covers(part)), "{:?}", part);
            }
        }

        #[test]
        fn what_is_clamped_lies_inside(x: i32, y: i32, width: u32, height: u32, w in 0_u32..20_000, h in 0_u32..20_000) {
            if let Some(part) = Part::clamped(x, y, width, height, (w, h)) {
                prop_assert!(part.left < part.right && part.right <= w && part.top < part.bottom && part.bottom <= h);
            }
        }
    }

    #[test]
    fn everything_stays_everything() {
        let mut damage = Damage::All;
        damage.add(Part { left: 0, top: 0, right: 1, bottom: 1 });
        assert_eq!(damage, Damage::All);
    }
}
