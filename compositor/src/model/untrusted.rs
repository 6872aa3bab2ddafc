//! What a guest said, until it has been checked.

use std::fmt;

/// A value that a guest chose. The only way to it is through the checks of this folder.
#[derive(Clone)]
pub struct Untrusted<T>(T);

impl<T> Untrusted<T> {
    /// Marks a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// For the checks alone.
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

/// The value itself does not get into logs unchecked.
impl<T> fmt::Debug for Untrusted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Untrusted")
    }
}

#[cfg(test)]
mod tests {
    use super::Untrusted;

    #[test]
    fn what_a_guest_said_is_not_printed() {
        assert_eq!(format!("{:?}", Untrusted::new("a guest's title")), "Untrusted");
    }
}
