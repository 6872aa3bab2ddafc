//! What a guest said, until it has been checked.

/// A value that a guest chose. The only way to it is through the checks of this folder.
#[derive(Clone, Debug)]
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
