//! Limits of `host.proto` and `guest.proto` for applications.

/// Applications of one list, and of one VM.
pub(super) const APPLICATIONS: usize = proto::MOST_APPLICATIONS;
pub(super) const ID: usize = 128;
pub(super) const NAME: usize = 128;
pub(super) const COMMENT: usize = 256;
pub(super) const KEYWORDS: usize = 64;
pub(super) const KEYWORD: usize = 128;
pub(super) const CATEGORIES: usize = 32;
pub(super) const CATEGORY: usize = 64;
pub(super) const MIME_TYPES: usize = 256;
pub(super) const MIME_TYPE: usize = 128;
pub(super) const STARTUP_CLASS: usize = 128;
pub(super) const ACTIONS: usize = 32;
pub(super) const ACTION_ID: usize = 64;
pub(super) const LANGUAGES: usize = 8;
pub(super) const LANGUAGE: usize = 32;
/// Bytes of a PNG, and pixels each way.
pub(super) const PICTURE: usize = 1 << 20;
pub(super) const PICTURE_EDGE: u32 = 1024;
/// Bytes of an SVG.
pub(super) const DRAWING: usize = 256 << 10;
