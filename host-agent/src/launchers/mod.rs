//! Applications of a guest in the host's menu: what a guest says of them is checked, and made into desktop
//! entries and icons of this user.
//!
//! Nothing here knows of VMs that run or of agents: text and bytes go in, what passed comes out. The
//! daemon's `integration::applications` decides when. Nothing of a guest reaches a file but through
//! [`list`] (applications), [`picture`] and [`drawing`] (icons).

pub mod drawing;
pub mod entry;
pub mod folder;
mod limits;
pub mod list;
pub use host_names as names;
pub mod picture;
