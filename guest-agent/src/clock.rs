//! The guest's clock, which stands still while the VM is paused.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

/// Less than this is left to the guest's own time service, which does it smoothly.
const TOLERANCE: Duration = Duration::from_millis(500);

/// Sets the clock to `host` when it is far off. Returns how far it was behind, in nanoseconds.
///
/// # Errors
/// The kernel refuses (not root), or the time is not one.
pub fn set(host: Duration) -> io::Result<i64> {
    let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if host.abs_diff(own) >= TOLERANCE {
        let seconds = i64::try_from(host.as_secs());
        let seconds = seconds.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let time = Timespec { tv_sec: seconds, tv_nsec: host.subsec_nanos().into() };
        clock_settime(ClockId::Realtime, time)?;
    }
    let behind = i128::try_from(host.as_nanos()).unwrap_or(i128::MAX) - own.as_nanos() as i128;
    Ok(i64::try_from(behind).unwrap_or(if behind < 0 { i64::MIN } else { i64::MAX }))
}
