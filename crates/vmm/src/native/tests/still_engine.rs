//! An engine whose processors never execute: what is left is the machine around them.

use engine::{
    Access, Capabilities, CpuidEntry, Doorbell, Engine, EngineError, Exit, HostMapping,
    InterruptFd, Kick, Msi, Msr, Partition, PartitionConfig, Processor, Registers, RunState,
    Statistics, SystemRegisters,
};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use units::GuestPhysical;

/// What the processors report next, and what was done to the partition.
#[derive(Default)]
pub(super) struct Script {
    pub(super) injected: Mutex<Vec<Msi>>,
    /// What is mapped: address and size.
    pub(super) mapped: Mutex<BTreeMap<u64, u64>>,
    pub(super) resets: Mutex<u32>,
    /// Port writes the bootstrap processor is to make.
    pub(super) writes: Mutex<VecDeque<(u16, Vec<u8>)>>,
    /// The processors halt instead of waiting in the guest.
    pub(super) halts: AtomicBool,
    /// A processor was reset in the middle of an instruction.
    pub(super) torn: AtomicBool,
    /// How often each processor was told that it stood still.
    pub(super) stood_still: [AtomicU32; 2],
}

pub(super) struct StillEngine(pub(super) Arc<Script>);

impl Engine for StillEngine {
    fn name(&self) -> &'static str {
        "still"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_processors: 255,
            interrupt_fd: false,
            doorbell: false,
            dirty_log: false,
            read_only_memory: true,
            nested: false,
            memory_has_length: true,
        }
    }
    fn create_partition(&self, _: &PartitionConfig) -> Result<Arc<dyn Partition>, EngineError> {
        Ok(Arc::new(StillPartition(Arc::clone(&self.0))))
    }
}

struct StillPartition(Arc<Script>);

impl Partition for StillPartition {
    fn map(
        &self,
        at: GuestPhysical,
        mapping: Arc<dyn HostMapping>,
        _: Access,
    ) -> Result<(), EngineError> {
        let before = self.0.mapped.lock().unwrap().insert(at.0, mapping.size().0);
        assert_eq!(before, None, "mapped twice at {at}");
        Ok(())
    }
    fn unmap(&self, at: GuestPhysical) -> Result<(), EngineError> {
        let before = self.0.mapped.lock().unwrap().remove(&at.0);
        assert!(before.is_some(), "nothing is mapped at {at}");
        Ok(())
    }
    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, EngineError> {
        Ok(vec![CpuidEntry { leaf: 0x8000_0008, eax: 40, ..CpuidEntry::default() }])
    }
    fn create_processor(&self, index: u32) -> Result<Box<dyn Processor>, EngineError> {
        Ok(Box::new(StillProcessor {
            index,
            script: Arc::clone(&self.0),
            kick: Arc::new(StillKick::default()),
            data: Vec::new(),
            half_done: false,
        }))
    }
    fn inject(&self, msi: Msi) -> Result<(), EngineError> {
        self.0.injected.lock().unwrap().push(msi);
        Ok(())
    }
    fn set_line_routes(&self, _: &[Option<Msi>]) -> Result<(), EngineError> {
        Ok(())
    }
    fn interrupt_fd(&self) -> Result<Option<Box<dyn InterruptFd>>, EngineError> {
        Ok(None)
    }
    fn doorbell(
        &self,
        _: Doorbell,
        _: BorrowedFd<'_>,
    ) -> Result<Option<Box<dyn Send + Sync>>, EngineError> {
        Ok(None)
    }
    fn dirty_pages(&self, _: GuestPhysical) -> Result<Vec<u64>, EngineError> {
        Ok(Vec::new())
    }
    fn statistics(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

#[derive(Default)]
struct StillKick {
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl Kick for StillKick {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

struct NoCounters;

impl Statistics for NoCounters {
    fn read(&self) -> Vec<(String, u64)> {
        vec![("halt".to_owned(), 0)]
    }
}

struct StillProcessor {
    index: u32,
    script: Arc<Script>,
    kick: Arc<StillKick>,
    data: Vec<u8>,
    half_done: bool,
}

impl Processor for StillProcessor {
    fn index(&self) -> u32 {
        self.index
    }
    fn run(&mut self) -> Result<Exit<'_>, EngineError> {
        let next =
            if self.index == 0 { self.script.writes.lock().unwrap().pop_front() } else { None };
        self.half_done = next.is_some();
        if let Some((port, data)) = next {
            self.data = data;
            return Ok(Exit::PortWrite { port, width: self.data.len() as u8, data: &self.data });
        }
        let mut kicked = self.kick.kicked.lock().unwrap();
        if self.script.halts.load(SeqCst) && !*kicked {
            return Ok(Exit::Halt);
        }
        while !*kicked {
            kicked = self.kick.changed.wait(kicked).unwrap();
        }
        *kicked = false;
        Ok(Exit::Interrupted)
    }
    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kick) as _
    }
    fn accepts_external_interrupt(&mut self) -> bool {
        false
    }
    fn queue_external_interrupt(&mut self, _: u8) -> Result<(), EngineError> {
        Ok(())
    }
    fn request_interrupt_window(&mut self, _: bool) {}
    fn inject_nmi(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    fn set_cpuid(&mut self, _: &[CpuidEntry]) -> Result<(), EngineError> {
        Ok(())
    }
    fn registers(&self) -> Result<Registers, EngineError> {
        Ok(Registers::default())
    }
    fn set_registers(&mut self, _: &Registers) -> Result<(), EngineError> {
        Ok(())
    }
    fn system_registers(&self) -> Result<SystemRegisters, EngineError> {
        Ok(SystemRegisters::default())
    }
    fn set_system_registers(&mut self, _: &SystemRegisters) -> Result<(), EngineError> {
        Ok(())
    }
    fn msrs(&self, _: &[u32]) -> Result<Vec<Msr>, EngineError> {
        Ok(Vec::new())
    }
    fn set_msrs(&mut self, _: &[Msr]) -> Result<(), EngineError> {
        Ok(())
    }
    fn run_state(&self) -> Result<RunState, EngineError> {
        Ok(RunState::Runnable)
    }
    fn reset(&mut self) -> Result<(), EngineError> {
        *self.script.resets.lock().unwrap() += 1;
        self.script.torn.fetch_or(self.half_done, SeqCst);
        Ok(())
    }
    fn stood_still(&mut self) -> Result<(), EngineError> {
        self.script.stood_still[self.index as usize].fetch_add(1, SeqCst);
        Ok(())
    }
    fn statistics(&self) -> Arc<dyn Statistics> {
        Arc::new(NoCounters)
    }
}
