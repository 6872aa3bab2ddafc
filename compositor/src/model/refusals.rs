//! What of a guest's messages was refused or cut, counted by reason. The log gets the first, second, fourth,
//! eighth ... of each reason: a guest cannot fill it.

use std::collections::BTreeMap;
use std::fmt::Display;

/// Why something of a guest was not taken as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// An empty message, or one that makes no sense where it came.
    Message,
    /// More windows than are allowed.
    WindowCount,
    /// A message of a window that there is not.
    UnknownWindow,
    /// A generation that does not grow.
    Generation,
    /// A place or size beyond the limits; brought within them.
    Geometry,
    /// A title that was too long, or had characters that are not for showing.
    Title,
    /// A class or application id that was too long, or had such characters.
    Class,
    /// A window that belongs to itself in the end.
    Circle,
    /// A window without a frame that covers too much of a monitor.
    Cover,
    /// A shadow beyond the limits.
    Shadow,
    /// A shape with too many rectangles, or one beyond the window.
    Shape,
    /// A window of which the border would not be seen.
    Opacity,
    /// Size hints beyond the limits or against each other.
    Hints,
    /// Pixels that do not lie in window memory.
    Picture,
    /// A present while one is unanswered.
    PresentFlood,
    /// A present whose sequence does not grow.
    Sequence,
    /// Windows that have more pixels together than window memory has.
    Pixels,
    /// Damage beyond the buffer, or too many rectangles of it.
    Damage,
    /// An icon of a wrong size.
    Icon,
    /// A cursor of a wrong size or with a name that is none.
    Cursor,
    /// A wish for the focus, a move or a resize without a user's act behind it.
    Uncalled,
    /// Windows that are opened faster than they may be; they wait.
    OpenFlood,
    /// Windows that together have more pixels than the desktop is to bear.
    Room,
    /// What the desktop did not do.
    Desktop,
    /// More bells than anybody wants to hear.
    Bell,
}

impl Refusal {
    /// As status and log say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::WindowCount => "window-count",
            Self::UnknownWindow => "unknown-window",
            Self::Generation => "generation",
            Self::Geometry => "geometry",
            Self::Title => "title",
            Self::Class => "class",
            Self::Circle => "circle",
            Self::Cover => "cover",
            Self::Shadow => "shadow",
            Self::Shape => "shape",
            Self::Opacity => "opacity",
            Self::Hints => "hints",
            Self::Picture => "picture",
            Self::PresentFlood => "present-flood",
            Self::Sequence => "sequence",
            Self::Pixels => "pixels",
            Self::Damage => "damage",
            Self::Icon => "icon",
            Self::Cursor => "cursor",
            Self::Uncalled => "uncalled",
            Self::OpenFlood => "open-flood",
            Self::Room => "room",
            Self::Desktop => "desktop",
            Self::Bell => "bell",
        }
    }
}

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Refusals(BTreeMap<Refusal, u64>);

impl Refusals {
    /// One more; `what` says of what, for the log.
    pub fn count(&mut self, refusal: Refusal, what: impl Display) {
        let count = self.0.entry(refusal).or_default();
        *count = count.saturating_add(1);
        if count.is_power_of_two() {
            tracing::warn!(reason = refusal.name(), count = *count, "guest: {what}");
        }
    }

    /// How often this reason was met.
    #[must_use]
    pub fn of(&self, refusal: Refusal) -> u64 {
        self.0.get(&refusal).copied().unwrap_or(0)
    }

    /// All that were met, by name.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(refusal, count)| (refusal.name().to_owned(), *count)).collect()
    }
}
