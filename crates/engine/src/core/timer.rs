//! Ending a run in time for the guest's timer, on processors where the core cannot itself (AMD has no
//! preemption timer): a timer of the kernel's whose interrupt on this CPU ends the run.
//!
//! A thread can be moved to another CPU at any moment, and its timer's interrupt then comes to the old one.
//! So the promise in the run page names the CPU ([`hypervisor_abi::RunPage::armed_on`]): on another one
//! the core ends the run at once, and the timer is set anew there.

use super::clock::{Clock, tsc};
use crate::EngineError;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kernel's numbers of CPUs and their local APIC ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ApicIds(BTreeMap<u32, u32>);

impl ApicIds {
    /// As `/proc/cpuinfo` says.
    pub(super) fn of_this_machine() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let (mut ids, mut cpu) = (BTreeMap::new(), None);
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match (key.trim(), value.trim().parse()) {
                ("processor", Ok(number)) => cpu = Some(number),
                ("apicid", Ok(id)) => {
                    if let Some(cpu) = cpu {
                        ids.insert(cpu, id);
                    }
                }
                _ => {}
            }
        }
        Self(ids)
    }
}

/// What root says in the run page of the interrupt that will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    /// By which count.
    pub(super) armed: u64,
    /// 1 more than the APIC id of the CPU, 0 for whichever.
    pub(super) on: u32,
}

/// No interrupt is sure to come.
const NOTHING: Promise = Promise { armed: u64::MAX, on: 0 };

/// The timer of one vCPU's thread.
pub(super) struct RunTimer {
    descriptor: OwnedFd,
    clock: Clock,
    ids: Arc<ApicIds>,
    promise: Promise,
    /// When the kernel's timer fires.
    fires: Instant,
}

/// How far ahead the kernel's timer is set at most: the guest's may be set for ever.
const FAR: Duration = Duration::from_secs(3600);

impl RunTimer {
    pub(super) fn new(clock: Clock, ids: Arc<ApicIds>) -> Result<Self, EngineError> {
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)
            .map_err(|error| EngineError::call("timerfd_create", error.into()))?;
        Ok(Self { descriptor, clock, ids, promise: NOTHING, fires: Instant::now() })
    }

    /// For the run page.
    pub(super) fn promise(&self) -> Promise {
        self.promise
    }

    /// Something interrupted the run: perhaps this timer, which then is spent.
    pub(super) fn look(&mut self) {
        if self.promise != NOTHING && Instant::now() >= self.fires {
            self.promise = NOTHING;
        }
    }

    /// The guest's timer is due at `deadline`: an interrupt comes to this CPU by then.
    pub(super) fn arm(&mut self, deadline: u64) -> Result<(), EngineError> {
        // A thread that is moved meanwhile sets the timer again where it finds itself.
        loop {
            let cpu = current_cpu();
            let now = tsc();
            // One that is far away is set again when this one has fired.
            let left = self.clock.until(deadline, now).min(FAR).max(Duration::from_nanos(1));
            self.set(left)?;
            self.fires = Instant::now() + left;
            if cpu != current_cpu() {
                continue;
            }
            let on = cpu.and_then(|cpu| self.ids.0.get(&cpu)).map_or(0, |id| id.wrapping_add(1));
            self.promise = Promise { armed: deadline, on };
            return Ok(());
        }
    }

    fn set(&self, left: Duration) -> Result<(), EngineError> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = left.try_into().unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        timerfd_settime(
            &self.descriptor,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )
        .map_err(|error| EngineError::call("timerfd_settime", error.into()))?;
        Ok(())
    }
}

/// The CPU this thread is on, for the moment.
fn current_cpu() -> Option<u32> {
    // SAFETY: no arguments, no memory.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_ids_are_found_by_the_kernels_numbers() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\napicid\t\t: 0\ninitial apicid\t: 9\n\n\
                    processor\t: 1\napicid\t\t: 2\n\nprocessor\t: 3\napicid\t\t: 6\n";
        assert_eq!(ApicIds::parse(text).0, BTreeMap::from([(0, 0), (1, 2), (3, 6)]));
        assert_eq!(ApicIds::parse("apicid: 7\n"), ApicIds::default());
    }

    #[test]
    fn a_promise_names_count_and_cpu_and_ends_when_the_timer_has_fired() {
        let ids = ApicIds((0..4096).map(|cpu| (cpu, 2 * cpu)).collect());
        let clock = Clock::new(1_000_000_000);
        let mut timer = RunTimer::new(clock, Arc::new(ids)).unwrap();
        assert_eq!(timer.promise(), NOTHING);
        let deadline = tsc() + 5_000_000;
        timer.arm(deadline).unwrap();
        assert_eq!(timer.promise().armed, deadline);
        assert_eq!(timer.promise().on % 2, 1);
        // The counter is no clock of this frequency here; that the timer fires is what counts.
        let begin = Instant::now();
        let mut ticks = [0; 8];
        rustix::io::read(&timer.descriptor, &mut ticks).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5));
        timer.look();
        assert_eq!(timer.promise(), NOTHING);
    }

    #[test]
    fn a_promise_stands_until_its_time() {
        let mut timer = RunTimer::new(Clock::new(1_000), Arc::default()).unwrap();
        timer.arm(tsc().saturating_add(1_000_000)).unwrap();
        timer.look();
        assert_eq!(timer.promise().on, 0, "this CPU is not known");
        assert_ne!(timer.promise(), NOTHING);
        timer.arm(u64::MAX - 1).unwrap();
        assert_eq!(
            timer.promise().armed,
            u64::MAX - 1,
            "the core would ask again for anything later"
        );
        timer.arm(0).unwrap();
        assert_eq!(timer.promise().armed, 0);
    }
}
