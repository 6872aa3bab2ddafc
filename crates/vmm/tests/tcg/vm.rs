//! A VM of engine `tcg` in a folder of its own.

use definition::EngineChoice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use tempfile::TempDir;
use vm_control::{Ending, LaunchSpec};
use vmm::tcg::TcgMachine;
use vmm::{Console, EndingSlot, LifeCycle, MachineError, Surroundings};

pub(crate) struct Vm {
    pub(crate) life: LifeCycle,
    pub(crate) console: Arc<Console>,
    pub(crate) ending: Arc<EndingSlot>,
    pub(crate) said: Vec<u8>,
    pub(crate) folder: TempDir,
}

pub(crate) fn has_qemu() -> bool {
    let there = engine::discovery::program_path("qemu-system-x86_64").is_some();
    if !there {
        eprintln!("SKIPPED: qemu-system-x86_64 is not installed");
    }
    there
}

/// Builds the VM of a definition in which `{folder}` stands for a folder of its own.
pub(crate) fn build(text: &str, end_on_reset: bool, folder: TempDir) -> Result<Vm, MachineError> {
    let text = text.replace("{folder}", folder.path().to_str().unwrap());
    let definition = definition::parse(&format!("name = \"t\"\nmemory = 128\n{text}")).unwrap();
    let spec = LaunchSpec {
        version: vm_control::VERSION,
        definition,
        engine: EngineChoice::Tcg,
        runtime: folder.path().to_owned(),
        state: folder.path().to_owned(),
        foreground: false,
        agent_token: None,
        timeout: None,
    };
    let console = Arc::new(Console::new(&folder.path().join("console.log"))?);
    let ending = Arc::new(EndingSlot::new()?);
    let surroundings = Surroundings {
        console: Arc::clone(&console),
        virtio_console: Arc::new(Console::new(&folder.path().join("hvc0.log"))?),
        ending: Arc::clone(&ending),
        end_on_reset,
        host_ports: None,
    };
    let machine = TcgMachine::new(&spec, &surroundings)?;
    Ok(Vm {
        life: LifeCycle::new(Box::new(machine), Arc::clone(&ending)),
        console,
        ending,
        said: Vec::new(),
        folder,
    })
}

impl Vm {
    pub(crate) fn new(text: &str, end_on_reset: bool, folder: TempDir) -> Self {
        build(text, end_on_reset, folder).unwrap()
    }

    /// A VM that boots `kernel` from its own folder.
    pub(crate) fn with_kernel(kernel: &[u8], end_on_reset: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), kernel).unwrap();
        let text = "cpus = 1\n[boot]\nkernel = \"{folder}/kernel\"\n";
        Self::new(text, end_on_reset, folder)
    }

    pub(crate) fn listen(&mut self) {
        self.said.extend(self.console.drain().output);
    }

    /// Waits until the guest has said `words` `times` times.
    pub(crate) fn wait_for(&mut self, words: &str, times: usize) {
        loop {
            self.listen();
            let text = String::from_utf8_lossy(&self.said);
            if text.matches(words).count() >= times {
                return;
            }
            assert_eq!(self.ending.get(), None, "ended, having said {text:?}");
            wait(&[self.console.as_fd(), self.ending.as_fd()]);
        }
    }

    pub(crate) fn wait_for_end(&mut self) -> Ending {
        wait(&[self.ending.as_fd()]);
        self.listen();
        self.ending.get().unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }
}

fn wait(what: &[BorrowedFd<'_>]) {
    let mut watched: Vec<_> =
        what.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    // Only so that a guest that is stuck fails the test instead of holding up the rest.
    let patience = Timespec { tv_sec: 300, tv_nsec: 0 };
    assert_ne!(poll(&mut watched, Some(&patience)).unwrap(), 0, "the guest is stuck");
}
