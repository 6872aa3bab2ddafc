//! How much and how long: every bound of this crate in one place.

use std::time::Duration;

/// A program that owns a selection says within this what it offers, else it counts as offering nothing.
pub(crate) const SAYS: Duration = Duration::from_secs(2);
/// What it offers still counts when it comes within this.
pub(crate) const SAYS_LATE: Duration = Duration::from_secs(30);
/// Content that is fetched begins, and goes on, within this.
pub(crate) const FETCH_STILL: Duration = Duration::from_secs(10);
/// Content that is fetched has come within this.
pub(crate) const FETCH: Duration = Duration::from_secs(60);
/// A [`crate::Source`] makes content within this.
pub(crate) const MAKE: Duration = Duration::from_secs(60);
/// Who pastes takes the next piece within this.
pub(crate) const GIVE_STILL: Duration = Duration::from_secs(10);
/// Who pastes has taken everything within this.
pub(crate) const GIVE: Duration = Duration::from_secs(120);
/// A display answers the connection within this.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// Fetches under way at once.
pub(crate) const FETCHES: usize = 64;
/// Pastes that wait for content, or take it, at once.
pub(crate) const PASTES: usize = 256;
/// Names of formats that are looked at, of one program's offer.
pub(crate) const NAMES: usize = 1024;
/// Pairs of one MULTIPLE request.
pub(crate) const PAIRS: usize = 32;
/// Bytes that are taken of content that nobody wants, so that its owner comes to an end.
pub(crate) const DRAIN: usize = 64 << 20;
/// Bytes of the hint that something is a secret.
pub(crate) const HINT: usize = 64;
