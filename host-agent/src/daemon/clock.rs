//! The host's clock, where it jumps: somebody has set it, or the host has slept and the guests' clocks stood still meanwhile.
//! The kernel tells, so that nothing has to look again and again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::runtime::Handle;

use super::vms::Vms;

/// Nobody waits for this moment: the year 2200.
const NEVER: i64 = 7_258_118_400;

/// Tells all guests the time whenever the host's clock has jumped, from a thread of its own that sleeps until then.
///
/// # Errors
/// There is no timer, or no thread.
pub(super) fn follow(vms: Vms) -> io::Result<()> {
    let jumps = Jumps::new()?;
    let runtime = Handle::current();
    let wait = move || {
        let _here = runtime.enter();
        loop {
            match jumps.next() {
                Ok(()) => {
                    tracing::info!("the host's clock has jumped");
                    vms.tell_time();
                }
                Err(error) => {
                    return tracing::warn!(%error, "the host's clock is not watched any more");
                }
            }
        }
    };
    std::thread::Builder::new().name("clock".to_owned()).spawn(wait).map(drop)
}

/// A timer that is never due, of which the kernel says when its clock jumps (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
struct Jumps(OwnedFd);

impl Jumps {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC)?;
        arm(&timer)?;
        Ok(Self(timer))
    }

    /// Waits for the next jump.
    fn next(&self) -> io::Result<()> {
        loop {
            match rustix::io::read(&self.0, &mut [0; 8]) {
                Err(Errno::CANCELED) => return arm(&self.0),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn arm(timer: impl AsFd) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let due = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: NEVER, tv_nsec: 0 } };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &due)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Jumps;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_clock_that_goes_on_does_not_jump() {
        let jumps = Jumps::new().expect("a timer");
        let (sender, jumped) = mpsc::channel();
        std::thread::spawn(move || sender.send(jumps.next()));
        let waited = jumped.recv_timeout(Duration::from_millis(200));
        assert!(waited.is_err(), "{waited:?}");
    }
}
