//! How a call ended.

/// What was wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// No call has this number.
    UnknownCall = 1,
    /// This caller may not make this call: no key, or a guest's user mode.
    Denied = 2,
    /// An argument is out of its range or misaligned.
    BadValue = 3,
    /// An argument names nothing that exists.
    NotFound = 4,
    /// What should be made is there already.
    Exists = 5,
    /// What is named is in use: the vCPU runs, the partition has vCPUs.
    Busy = 6,
    /// The core's own memory is used up.
    OutOfMemory = 7,
    /// The page belongs to someone else.
    NotOwned = 8,
    /// This machine cannot do it.
    NotSupported = 9,
}

impl Fault {
    /// Every fault, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::UnknownCall,
        Self::Denied,
        Self::BadValue,
        Self::NotFound,
        Self::Exists,
        Self::Busy,
        Self::OutOfMemory,
        Self::NotOwned,
        Self::NotSupported,
    ];

    /// In words, for messages.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnknownCall => "no such call",
            Self::Denied => "denied",
            Self::BadValue => "bad value",
            Self::NotFound => "not found",
            Self::Exists => "exists already",
            Self::Busy => "busy",
            Self::OutOfMemory => "out of memory",
            Self::NotOwned => "not owned",
            Self::NotSupported => "not supported",
        }
    }
}

/// The word a call returns in RAX: 0 for success; otherwise the [`Fault`] in bits 0 to 7 and the
/// number of the argument at fault, counted from 1, in bits 8 to 15 (0 when it is none in
/// particular).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u64);

impl Status {
    /// Success.
    pub const OK: Self = Self(0);

    /// `fault`, caused by argument `argument` (1 to 5).
    #[must_use]
    pub const fn argument(fault: Fault, argument: u8) -> Self {
        Self(fault as u64 | (argument as u64) << 8)
    }

    /// `fault`, caused by no argument in particular.
    #[must_use]
    pub const fn fault(fault: Fault) -> Self {
        Self(fault as u64)
    }

    /// The fault and its argument, or `None` for success or a word that is no status.
    #[must_use]
    pub fn unpack(self) -> Option<(Fault, u8)> {
        let fault = Fault::ALL.into_iter().find(|fault| *fault as u64 == self.0 & 0xff)?;
        Some((fault, (self.0 >> 8) as u8))
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        Self::fault(fault)
    }
}

/// What [`RootCall::SelfCheck`](crate::RootCall::SelfCheck) looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CorePart {
    /// The image's code.
    Code = 1,
    /// The image's constants.
    Constants = 2,
    /// An end of one of the processors' stacks.
    Stacks = 3,
    /// An end of the core's frames.
    Frames = 4,
}

impl CorePart {
    /// The part with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Code,
            2 => Self::Constants,
            3 => Self::Stacks,
            4 => Self::Frames,
            _ => return None,
        })
    }

    /// In words, for messages.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Code => "its code",
            Self::Constants => "its constants",
            Self::Stacks => "the end of a stack",
            Self::Frames => "the end of its frames",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CorePart, Fault, Status};

    #[test]
    fn a_part_has_a_number_that_is_not_success() {
        assert_eq!(CorePart::from_number(0), None);
        for part in [CorePart::Code, CorePart::Constants, CorePart::Stacks, CorePart::Frames] {
            assert_eq!(CorePart::from_number(part as u64), Some(part));
        }
    }

    #[test]
    fn a_status_names_the_fault_and_the_argument() {
        for fault in Fault::ALL {
            assert_eq!(Status::fault(fault).unpack(), Some((fault, 0)));
            assert_eq!(Status::argument(fault, 5).unpack(), Some((fault, 5)));
        }
        assert_eq!(Status::OK.unpack(), None);
        assert_eq!(Status(0xff).unpack(), None);
    }
}
