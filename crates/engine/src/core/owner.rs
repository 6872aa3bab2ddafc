//! Whose a partition is, so that those of VMM processes that died can be told and ended.
//!
//! The owner is a number of 64 bits: the process id (22 bits), the clock tick in which the process started
//! (the low 26), and what the pid namespace hashes to (16). A process id that is used again comes with
//! another start; one of another namespace means nothing here and is left alone.

use super::calls::{Calls, PartitionNumber};
use hypervisor_abi::MAX_PARTITIONS;
use rustix::process::getpid;

const PID_BITS: u32 = 22;
const START_BITS: u32 = 26;
const START_MASK: u64 = (1 << START_BITS) - 1;

/// A process, as partitions name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pid: u32,
    start: u64,
    namespace: u16,
}

/// What the kernel says of a process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    /// There is none.
    Gone,
    /// There is one that started then.
    Started(u64),
    /// It does not say.
    Unknown,
}

impl Owner {
    /// This process. `None` when the kernel does not say who it is; its partitions then are nobody's, and
    /// nobody ends them when it dies.
    pub(super) fn this_process() -> Option<Self> {
        let pid = getpid().as_raw_nonzero().get();
        let Process::Started(start) = process("self") else { return None };
        Some(Self {
            pid: u32::try_from(pid).ok().filter(|pid| pid >> PID_BITS == 0)?,
            start: start & START_MASK,
            namespace: namespace()?,
        })
    }

    /// As a number, never 0: process ids start at 1.
    pub(super) fn number(self) -> u64 {
        u64::from(self.pid)
            | self.start << PID_BITS
            | u64::from(self.namespace) << (PID_BITS + START_BITS)
    }

    fn from_number(number: u64) -> Option<Self> {
        let pid = (number & ((1 << PID_BITS) - 1)) as u32;
        let owner = Self {
            pid,
            start: number >> PID_BITS & START_MASK,
            namespace: (number >> (PID_BITS + START_BITS)) as u16,
        };
        (pid != 0).then_some(owner)
    }

    /// Whether it is sure, from where this process stands, that the owner has ended.
    fn has_ended(self, own_namespace: Option<u16>, process: impl Fn(&str) -> Process) -> bool {
        if own_namespace != Some(self.namespace) {
            return false;
        }
        match process(&self.pid.to_string()) {
            Process::Gone => true,
            Process::Started(start) => start & START_MASK != self.start,
            Process::Unknown => false,
        }
    }
}

/// What `/proc/<name>/stat` says: state and start (proc_pid_stat(5), fields 3 and 22).
fn process(name: &str) -> Process {
    match std::fs::read_to_string(format!("/proc/{name}/stat")) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Process::Gone,
        // It ended between opening and reading.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Process::Gone,
        Err(_) => Process::Unknown,
    }
}

fn parse(stat: &str) -> Process {
    // The name before it may contain anything, parentheses too.
    let Some((_, fields)) = stat.rsplit_once(')') else { return Process::Unknown };
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let threads = fields.get(17).and_then(|count| count.parse::<u32>().ok());
    let start = fields.get(19).and_then(|start| start.parse().ok());
    match (fields.first(), threads, start) {
        // Its threads are gone; only its parent has not asked yet how it ended.
        (Some(&("Z" | "X")), Some(0 | 1), _) => Process::Gone,
        (_, _, Some(start)) => Process::Started(start),
        _ => Process::Unknown,
    }
}

/// The pid namespace, as a number.
fn namespace() -> Option<u16> {
    let name = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(fold(name.as_os_str().as_encoded_bytes()))
}

/// FNV-1a (64 bits), folded.
fn fold(bytes: &[u8]) -> u16 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ hash >> 16 ^ hash >> 32 ^ hash >> 48) as u16
}

/// Ends the partitions of processes that have ended. Gives how many.
pub(super) fn reap(calls: &Calls) -> usize {
    reap_with(calls, namespace(), process)
}

fn reap_with(
    calls: &Calls,
    own_namespace: Option<u16>,
    process: impl Fn(&str) -> Process,
) -> usize {
    let mut ended = 0;
    for number in (1..MAX_PARTITIONS as u64).map(PartitionNumber) {
        let Ok(owner) = calls.owner(number) else { continue };
        let dead =
            Owner::from_number(owner).is_some_and(|owner| owner.has_ended(own_namespace, &process));
        if !dead {
            continue;
        }
        // The core compares the owner again: the number may be another's by now.
        match calls.destroy_partition(number, owner) {
            Ok(()) => {
                tracing::info!(partition = number.0, "ended: its process has died");
                ended += 1;
            }
            Err(error) => tracing::debug!(partition = number.0, %error, "not ended"),
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::super::test_core::TestCore;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn this_process_lives_and_its_number_says_who_it_is() {
        let own = Owner::this_process().unwrap();
        assert_eq!(Owner::from_number(own.number()), Some(own));
        assert_eq!(own.pid, std::process::id());
        assert!(!own.has_ended(namespace(), process));
        assert!(Owner { start: own.start ^ 1, ..own }.has_ended(namespace(), process));
        let elsewhere = Owner { namespace: own.namespace ^ 1, start: own.start ^ 1, ..own };
        assert!(!elsewhere.has_ended(namespace(), process));
        assert!(!own.has_ended(None, |_| Process::Gone), "nothing is known of namespaces");
    }

    #[test]
    fn a_child_is_gone_as_soon_as_it_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let name = child.id().to_string();
        assert!(matches!(process(&name), Process::Started(_)));
        child.kill().unwrap();
        // Not asked for yet: a zombie.
        while process(&name) != Process::Gone {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(process(&name), Process::Gone);
    }

    #[test]
    fn names_of_programs_cannot_confuse() {
        let stat = |name: &str, state: &str, threads: u32| {
            format!("7 ({name}) {state} 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 4711 0 0")
        };
        assert_eq!(parse(&stat("vm", "S", 3)), Process::Started(4711));
        assert_eq!(parse(&stat(") Z 1 (", "R", 1)), Process::Started(4711));
        assert_eq!(parse(&stat("vm", "Z", 1)), Process::Gone);
        assert_eq!(parse(&stat("vm", "Z", 2)), Process::Started(4711), "other threads live");
        assert_eq!(parse("7 (vm"), Process::Unknown);
        assert_eq!(parse(""), Process::Unknown);
    }

    #[test]
    fn only_partitions_of_dead_processes_of_this_namespace_end() {
        let core = Arc::new(TestCore::default());
        let calls = Calls::new(Arc::clone(&core) as _);
        let live = Owner { pid: 100, start: 5, namespace: 9 };
        let again = Owner { pid: 100, start: 4, ..live };
        let dead = Owner { pid: 101, ..live };
        let foreign = Owner { namespace: 8, ..dead };
        for owner in [live.number(), again.number(), dead.number(), foreign.number(), 0] {
            calls.create_partition(owner).unwrap();
        }
        let process = |name: &str| match name {
            "100" => Process::Started(5),
            _ => Process::Gone,
        };
        assert_eq!(reap_with(&calls, Some(9), process), 2);
        assert_eq!(core.owners(), [live.number(), foreign.number(), 0]);
        assert_eq!(reap_with(&calls, Some(9), process), 0);
    }
}
