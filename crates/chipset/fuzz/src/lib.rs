//! What the fuzz targets share with the deterministic test: the same decoding of bytes to accesses
//! and the same checks.

#[path = "../../tests/exercise/mod.rs"]
pub mod exercise;
