//! setfattr(1) and getfattr(1), which the guest's busybox lacks.

use crate::Result;
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
use std::path::Path;

/// Prints the attribute `name` of a file, or sets it to `value`; without a name prints all names.
pub(crate) fn run(path: &Path, name: Option<&str>, value: Option<&str>) -> Result {
    let mut bytes = vec![0; 64 << 10];
    let count = match (name, value) {
        (Some(name), Some(value)) => {
            setxattr(path, name, value.as_bytes(), XattrFlags::empty())?;
            return Ok(());
        }
        (Some(name), None) => getxattr(path, name, &mut bytes[..])?,
        (None, _) => listxattr(path, &mut bytes[..])?,
    };
    println!("{}", String::from_utf8_lossy(&bytes[..count]).replace('\0', "\n").trim_end());
    Ok(())
}
