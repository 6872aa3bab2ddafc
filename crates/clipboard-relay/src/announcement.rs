//! What a desktop says that can be pasted from it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use clipboard::{Format, Selection};
use proto::v1::{ClipboardFormat, ClipboardOffer, ClipboardSelection};

/// Formats that one announcement may list; more than there are, for those of later versions.
const MOST_FORMATS: usize = 16;

/// A desktop, by bytes that its agent or daemon chose when it started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin([u8; 16]);

/// One copy on one desktop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Where.
    pub origin: Origin,
    /// Which of it.
    pub sequence: u64,
}

/// What can be pasted. Equal ones say the same, however they are said.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// From which clipboard.
    pub selection: Selection,
    /// Which copy it is.
    pub id: Id,
    /// Empty: nothing any more.
    pub formats: BTreeSet<Format>,
    /// Its program says that it is a secret.
    pub secret: bool,
    /// It was there before: it takes an empty place, but no other's.
    pub standing: bool,
}

/// Why an announcement is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementProblem {
    /// Not one of the clipboards.
    #[error("there is no clipboard {0}")]
    Selection(i32),
    /// Not an origin.
    #[error("the origin has {0} bytes; allowed: 16")]
    Origin(usize),
    /// Too many formats.
    #[error("it lists {0} formats; allowed: {MOST_FORMATS}")]
    Formats(usize),
    /// One twice, or none at all.
    #[error("it lists format {0} twice, or it is none")]
    Format(i32),
}

/// This desktop: what its copies are called.
#[derive(Debug)]
pub struct Here {
    origin: Origin,
    sequence: AtomicU64,
}

impl Origin {
    /// From as many bytes as it has.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl Here {
    /// A desktop with an origin of its own.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        // Up to 256 bytes come whole (getrandom(2)).
        if count != bytes.len() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self::with(Origin(bytes)))
    }

    /// A desktop with this origin.
    #[must_use]
    pub fn with(origin: Origin) -> Self {
        Self { origin, sequence: AtomicU64::new(0) }
    }

    /// Its origin.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The name of its next copy.
    pub(crate) fn next(&self) -> Id {
        Id { origin: self.origin, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl PartialEq for Announcement {
    fn eq(&self, other: &Self) -> bool {
        let said = |it: &Self| (it.selection, it.id, it.secret);
        said(self) == said(other) && self.formats == other.formats
    }
}

impl Announcement {
    /// Checks what another side says.
    ///
    /// # Errors
    /// It breaks a limit of the protocol.
    pub fn check(offer: &ClipboardOffer) -> Result<Self, AnnouncementProblem> {
        let origin = Origin::from_bytes(&offer.origin)
            .ok_or(AnnouncementProblem::Origin(offer.origin.len()))?;
        if offer.formats.len() > MOST_FORMATS {
            return Err(AnnouncementProblem::Formats(offer.formats.len()));
        }
        let (mut formats, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for number in &offer.formats {
            if *number == 0 || !numbers.insert(*number) {
                return Err(AnnouncementProblem::Format(*number));
            }
            // Those this program does not know are a later one's.
            formats.extend(format(*number));
        }
        Ok(Self {
            selection: selection(offer.selection)
                .ok_or(AnnouncementProblem::Selection(offer.selection))?,
            id: Id { origin, sequence: offer.sequence },
            formats,
            secret: offer.secret,
            standing: offer.standing,
        })
    }

    /// As it travels.
    #[must_use]
    pub fn message(&self) -> ClipboardOffer {
        ClipboardOffer {
            selection: selection_number(self.selection),
            origin: self.id.origin.bytes(),
            sequence: self.id.sequence,
            formats: self.formats.iter().map(|format| format_number(*format)).collect(),
            secret: self.secret,
            standing: self.standing,
        }
    }
}

/// A clipboard by its number in the protocol.
#[must_use]
pub fn selection(number: i32) -> Option<Selection> {
    match ClipboardSelection::try_from(number) {
        Ok(ClipboardSelection::Clipboard) => Some(Selection::Clipboard),
        Ok(ClipboardSelection::Primary) => Some(Selection::Primary),
        Ok(ClipboardSelection::Unspecified) | Err(_) => None,
    }
}

/// A format by its number in the protocol.
#[must_use]
pub fn format(number: i32) -> Option<Format> {
    match ClipboardFormat::try_from(number) {
        Ok(ClipboardFormat::Text) => Some(Format::Text),
        Ok(ClipboardFormat::Html) => Some(Format::Html),
        Ok(ClipboardFormat::Png) => Some(Format::Png),
        Ok(ClipboardFormat::Files) => Some(Format::Files),
        Ok(ClipboardFormat::Unspecified) | Err(_) => None,
    }
}

pub(crate) fn selection_number(selection: Selection) -> i32 {
    match selection {
        Selection::Clipboard => ClipboardSelection::Clipboard.into(),
        Selection::Primary => ClipboardSelection::Primary.into(),
    }
}

pub(crate) fn format_number(format: Format) -> i32 {
    match format {
        Format::Text => ClipboardFormat::Text.into(),
        Format::Html => ClipboardFormat::Html.into(),
        Format::Png => ClipboardFormat::Png.into(),
        Format::Files => ClipboardFormat::Files.into(),
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> ClipboardOffer {
        ClipboardOffer {
            selection: 1,
            origin: vec![7; 16],
            sequence: 3,
            formats: vec![1, 3],
            secret: true,
            standing: true,
        }
    }

    #[test]
    fn an_announcement_travels_unchanged() {
        let taken = Announcement::check(&offer()).unwrap();
        assert_eq!(taken.message(), offer());
        assert_eq!(taken.formats, BTreeSet::from([Format::Text, Format::Png]));
        // Of a later version.
        let later = ClipboardOffer { formats: vec![1, 77], ..offer() };
        assert_eq!(Announcement::check(&later).unwrap().formats, BTreeSet::from([Format::Text]));
    }

    #[test]
    fn what_breaks_a_limit_is_refused_with_the_reason() {
        use AnnouncementProblem::{Format, Formats, Origin, Selection};
        for (offer, problem) in [
            (ClipboardOffer { selection: 0, ..offer() }, Selection(0)),
            (ClipboardOffer { selection: -1, ..offer() }, Selection(-1)),
            (ClipboardOffer { origin: vec![1; 15], ..offer() }, Origin(15)),
            (ClipboardOffer { origin: vec![1; 1 << 20], ..offer() }, Origin(1 << 20)),
            (ClipboardOffer { formats: vec![1, 2, 1], ..offer() }, Format(1)),
            (ClipboardOffer { formats: vec![0], ..offer() }, Format(0)),
            (ClipboardOffer { formats: (1..=17).collect(), ..offer() }, Formats(17)),
        ] {
            assert_eq!(Announcement::check(&offer).unwrap_err(), problem);
        }
    }

    #[test]
    fn no_two_desktops_are_the_same() {
        let (one, other) = (Here::random().unwrap(), Here::random().unwrap());
        assert_ne!(one.origin(), other.origin());
        assert!(one.next().sequence < one.next().sequence);
    }
}
