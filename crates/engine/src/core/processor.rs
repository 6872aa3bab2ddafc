//! One virtual CPU of the core's, in a thread like any other: a physical interrupt ends its run, and what
//! the kernel then does (another thread's turn, a signal, a move to another CPU) is none of this code's.

use super::clock::tsc;
use super::convert;
use super::early::Early;
use super::error::CoreError;
use super::exit::{Happened, Page};
use super::partition::Handle;
use super::statistics::CoreCounters;
use super::timer::RunTimer;
use crate::counters::ProcessorCounters;
use crate::{
    CpuidEntry, DoorbellAddress, EngineError, Exit, Kick, Msr, Processor, Registers, RunState,
    Statistics, SystemRegisters,
};
use hypervisor_abi::{
    ACTIVITY_HALTED, ACTIVITY_WAIT_FOR_SIPI, Fault, MAX_CPUID_ROWS, RootCall, RunFlags, VcpuState,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use units::GuestPhysical;

/// The longest sleep of a halted vCPU whose timer is due some day: then it looks again how far away that is. The counter may
/// have begun anew meanwhile, while the machine slept.
const NAP: Duration = Duration::from_secs(60);

/// How kickers reach a vCPU. The flag is set before the core is told, so that a run which the kick ends
/// finds it; the core keeps the kick for the next run when there is none, and then the run after it ends
/// once for nothing.
struct Kicks {
    handle: Arc<Handle>,
    index: u32,
    kicked: AtomicBool,
}

impl Kick for Kicks {
    fn kick(&self) {
        self.kicked.store(true, SeqCst);
        let Handle { shared, number, .. } = &*self.handle;
        if let Err(error) = shared.calls.kick(*number, self.index) {
            // The vCPU is the handle's: it is there.
            tracing::warn!(%error, processor = self.index, "not interrupted");
        }
        self.handle.sleeper(self.index).wake();
    }
}

/// A virtual CPU.
pub(super) struct CoreProcessor {
    handle: Arc<Handle>,
    index: u32,
    page: Page,
    kicks: Arc<Kicks>,
    /// `None` where the core ends runs in time itself.
    timer: Option<RunTimer>,
    early: Early,
    counters: Arc<ProcessorCounters>,
    core_counters: Arc<CoreCounters>,
    /// A vector of an 8259 for the next run.
    external: Option<u8>,
    wants_window: bool,
    /// The run page's word on external interrupts is from before a reset or a change of state.
    stale: bool,
}

impl CoreProcessor {
    pub(super) fn new(handle: Arc<Handle>, index: u32) -> Result<Self, EngineError> {
        let shared = &handle.shared;
        let offset = shared.calls.create_vcpu(handle.number, index).map_err(CoreError::from)?;
        let page = shared.pool.run_page(offset);
        let page = page.ok_or(CoreError::Information { field: "run page", value: offset })?;
        // SAFETY: a page of the pool's head, which the handle keeps mapped; the vCPU's, which is this one.
        let page = unsafe { Page::new(page) };
        let timer = match shared.has_own_timer() {
            true => None,
            false => Some(RunTimer::new(shared.clock(), Arc::clone(&shared.ids))?),
        };
        let kicks = Kicks { handle: Arc::clone(&handle), index, kicked: AtomicBool::new(false) };
        let core_counters = Arc::new(CoreCounters::new(&handle, index));
        let counters = ProcessorCounters::new(Some(Box::new(Arc::clone(&core_counters))));
        Ok(Self {
            index,
            page,
            kicks: Arc::new(kicks),
            timer,
            early: Early::new(handle.shared.clock().frequency()),
            counters: Arc::new(counters),
            core_counters,
            external: None,
            wants_window: false,
            stale: true,
            handle,
        })
    }

    /// Writes what the core is to know before a run.
    fn order(&mut self) {
        let mut request = 0;
        if self.wants_window {
            request |= RunFlags::INTERRUPT_WINDOW;
        }
        if self.external.is_some() {
            request |= RunFlags::EXTERNAL_INTERRUPT;
        }
        self.page.order(request, self.external.unwrap_or(0));
        if let Some(timer) = &self.timer {
            let promise = timer.promise();
            self.page.promise(promise.armed, promise.on);
        }
    }

    /// One run; the reason is in the run page.
    fn run_once(&mut self) -> Result<(), EngineError> {
        let Handle { shared, number, .. } = &*self.handle;
        loop {
            match shared.calls.run(*number, self.index) {
                // Someone looks at the vCPU's counters or state, for a moment; orders are not taken yet.
                Err(error) if error.fault() == Some(Fault::Busy) => std::thread::yield_now(),
                done => {
                    done.map_err(CoreError::from)?;
                    self.external = None;
                    self.stale = false;
                    return Ok(());
                }
            }
        }
    }

    /// Runs until something needs the caller; true when that is a kick.
    fn run_on(&mut self) -> Result<bool, EngineError> {
        loop {
            self.handle.sleeper(self.index).before_run();
            self.order();
            self.run_once()?;
            let happened = self.page.happened();
            self.core_counters.count(happened);
            match happened {
                Happened::Exit => return Ok(false),
                Happened::Write => {
                    if !self.rings() {
                        return Ok(false);
                    }
                    self.core_counters.count_doorbell();
                }
                Happened::Interrupted => {
                    if self.kicks.kicked.swap(false, SeqCst) {
                        return Ok(true);
                    }
                    if let Some(timer) = &mut self.timer {
                        timer.look();
                    }
                }
                Happened::Deadline => {
                    if let Some(timer) = &mut self.timer {
                        timer.arm(self.page.deadline())?;
                    }
                }
                Happened::Halt | Happened::WaitForSipi => {
                    if self.kicks.kicked.swap(false, SeqCst) {
                        return Ok(true);
                    }
                    self.sleep(happened);
                }
                Happened::Wake => self.handle.wake(self.page.woken()),
                Happened::Call => self.page.refuse_call(),
            }
        }
    }

    /// The guest has written: where a doorbell stands there, it rings.
    fn rings(&self) -> bool {
        let (address, data) = match self.page.decode() {
            Exit::MemoryWrite { address, data } => {
                (DoorbellAddress::Memory(GuestPhysical(address)), data)
            }
            // A string of writes is several.
            Exit::PortWrite { port, width, data } if data.len() == usize::from(width) => {
                (DoorbellAddress::Port(port), data)
            }
            _ => return false,
        };
        self.handle.doorbells.ring(address, data)
    }

    /// Sleeps until the vCPU has something to do, or its timer is due.
    fn sleep(&mut self, happened: Happened) {
        let deadline = match happened {
            Happened::Halt => self.page.deadline(),
            _ => u64::MAX,
        };
        let sleeper = self.handle.sleeper(self.index);
        if deadline == u64::MAX {
            sleeper.sleep(None);
            return;
        }
        let wake = deadline.saturating_sub(self.early.ticks());
        let left = self.handle.shared.clock().until(wake, tsc());
        let limit = Instant::now() + left.min(NAP);
        if sleeper.sleep(Some(limit)) {
            let now = tsc();
            if left > Duration::ZERO && left <= NAP {
                self.early.woke(now.saturating_sub(wake));
            }
            // More is left where the kernel's clock runs ahead of the counter: the next halt sleeps for it.
            if deadline.saturating_sub(now) <= self.early.most() {
                sleeper.linger(|| tsc() < deadline);
            }
        }
    }

    fn state(&self) -> Result<VcpuState, EngineError> {
        let Handle { shared, number, .. } = &*self.handle;
        let mut slot = self.handle.slot();
        let (call, offset) = (RootCall::VcpuGetState, slot.offset());
        shared.calls.of_vcpu(call, *number, self.index, offset).map_err(CoreError::from)?;
        Ok(slot.read(0))
    }

    fn set_state(&mut self, state: VcpuState) -> Result<(), EngineError> {
        let Handle { shared, number, .. } = &*self.handle;
        let mut slot = self.handle.slot();
        slot.write(0, state);
        let (call, offset) = (RootCall::VcpuSetState, slot.offset());
        shared.calls.of_vcpu(call, *number, self.index, offset).map_err(CoreError::from)?;
        drop(slot);
        self.stale = true;
        Ok(())
    }
}

impl Processor for CoreProcessor {
    fn index(&self) -> u32 {
        self.index
    }

    fn run(&mut self) -> Result<Exit<'_>, EngineError> {
        let exit = match self.run_on()? {
            true => Exit::Interrupted,
            false => self.page.decode(),
        };
        self.counters.count(&exit);
        Ok(exit)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        // A guest's timer is no less precise than the kernel's own; refused in a sandbox, it is only late.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        Arc::clone(&self.kicks) as Arc<dyn Kick>
    }

    fn accepts_external_interrupt(&mut self) -> bool {
        !self.stale && self.external.is_none() && self.page.accepts_external()
    }

    fn queue_external_interrupt(&mut self, vector: u8) -> Result<(), EngineError> {
        self.external = Some(vector);
        Ok(())
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.wants_window = wanted;
    }

    fn inject_nmi(&mut self) -> Result<(), EngineError> {
        let Handle { shared, number, .. } = &*self.handle;
        let woken = shared.calls.inject_nmi(*number, self.index).map_err(CoreError::from)?;
        self.handle.wake(woken);
        Ok(())
    }

    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), EngineError> {
        if entries.len() > MAX_CPUID_ROWS {
            let source = io::Error::from_raw_os_error(libc::E2BIG);
            return Err(EngineError::call("VcpuSetCpuid", source));
        }
        let Handle { shared, number, .. } = &*self.handle;
        let mut slot = self.handle.slot();
        for (place, entry) in entries.iter().enumerate() {
            slot.write(place, convert::cpuid_to(entry));
        }
        let set = shared.calls.set_cpuid(*number, self.index, slot.offset(), entries.len());
        Ok(set.map_err(CoreError::from)?)
    }

    fn registers(&self) -> Result<Registers, EngineError> {
        Ok(convert::registers_from(&self.state()?.registers))
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), EngineError> {
        let state = self.state()?;
        self.set_state(VcpuState { registers: convert::registers_to(registers), ..state })
    }

    fn system_registers(&self) -> Result<SystemRegisters, EngineError> {
        Ok(convert::system_registers_from(&self.state()?))
    }

    fn set_system_registers(&mut self, registers: &SystemRegisters) -> Result<(), EngineError> {
        let mut state = self.state()?;
        convert::set_system_registers(&mut state, registers);
        self.set_state(state)
    }

    fn msrs(&self, indexes: &[u32]) -> Result<Vec<Msr>, EngineError> {
        let mut state = self.state()?;
        let values = indexes.iter().filter_map(|index| {
            convert::msr(&mut state, *index).map(|value| Msr { index: *index, value: *value })
        });
        Ok(values.collect())
    }

    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), EngineError> {
        let mut state = self.state()?;
        for Msr { index, value } in msrs {
            let register = convert::msr(&mut state, *index);
            *register.ok_or(EngineError::Msr { index: *index, value: *value })? = *value;
        }
        self.set_state(state)
    }

    fn tsc_frequency(&self) -> Option<u64> {
        Some(self.handle.shared.clock().frequency())
    }

    fn run_state(&self) -> Result<RunState, EngineError> {
        Ok(match self.state()?.activity {
            ACTIVITY_HALTED => RunState::Halted,
            ACTIVITY_WAIT_FOR_SIPI => RunState::WaitForSipi,
            _ => RunState::Runnable,
        })
    }

    fn reset(&mut self) -> Result<(), EngineError> {
        let Handle { shared, number, .. } = &*self.handle;
        shared.calls.reset(*number, self.index).map_err(CoreError::from)?;
        self.external = None;
        self.wants_window = false;
        self.stale = true;
        Ok(())
    }

    /// Nothing: guests of the core have no clock of ours that listens.
    fn stood_still(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn statistics(&self) -> Arc<dyn Statistics> {
        Arc::clone(&self.counters) as Arc<dyn Statistics>
    }
}
