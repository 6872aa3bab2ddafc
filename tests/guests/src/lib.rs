//! Seven tiny guest programs, assembled by the build.
