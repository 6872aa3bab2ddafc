//! Figures about a VM run by QEMU: what QEMU and the kernel count, nothing else.

use super::qmp::Qmp;
use crate::MachineError;
use crate::process::overhead::resident_without_ram;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use vm_control::{Counters, Statistics};

/// The kernel's accounts of QEMU's threads, opened before the sandbox closes.
pub(super) struct Accounts {
    processors: Vec<File>,
    whole: File,
    memory: File,
    ticks: Ticks,
}

/// How often per second the kernel's accounts tick. Asked for at the start, because the answer
/// takes a system call that the sandbox forbids.
#[derive(Clone, Copy)]
struct Ticks(u64);

impl Ticks {
    fn of_this_host() -> Self {
        Self(rustix::param::clock_ticks_per_second().max(1))
    }

    fn milliseconds(self, count: u64) -> u64 {
        count.saturating_mul(1000) / self.0
    }
}

impl Accounts {
    /// For the QEMU with process id `pid`, whose processors exist by now.
    pub(super) fn open(pid: u32, qmp: &Qmp) -> Result<Self, MachineError> {
        let open = |path: String| {
            File::open(&path).map_err(|e| MachineError::file("cannot open", path, e))
        };
        let answer = qmp.execute("query-cpus-fast", json!({}))?;
        let threads = answer.as_array().into_iter().flatten();
        let threads = threads.filter_map(|processor| processor["thread-id"].as_u64());
        Ok(Self {
            processors: threads
                .map(|thread| open(format!("/proc/{pid}/task/{thread}/stat")))
                .collect::<Result<_, _>>()?,
            whole: open(format!("/proc/{pid}/stat"))?,
            memory: open(format!("/proc/{pid}/smaps"))?,
            ticks: Ticks::of_this_host(),
        })
    }

    /// Everything there is to count.
    pub(super) fn statistics(&self, qmp: &Qmp) -> Result<Statistics, MachineError> {
        let mut devices = BTreeMap::new();
        let blocks = qmp.execute("query-blockstats", json!({}))?;
        for block in blocks.as_array().into_iter().flatten() {
            if let Some((name, counters)) = disk(block) {
                devices.insert(name, counters);
            }
        }
        devices.insert("qemu".to_owned(), processor_time(&read(&self.whole)?, self.ticks));
        let processors = self.processors.iter();
        Ok(Statistics {
            processors: processors
                .map(|account| read(account).map(|text| processor_time(&text, self.ticks)))
                .collect::<Result<_, _>>()?,
            devices,
            overhead: self.overhead()?,
        })
    }
}

impl Accounts {
    /// Resident KiB of QEMU that are not guest RAM.
    fn overhead(&self) -> Result<u64, MachineError> {
        let mut text = String::new();
        let mut memory = &self.memory;
        memory
            .rewind()
            .and_then(|()| memory.read_to_string(&mut text))
            .map_err(|e| MachineError::system("cannot read QEMU's memory figures", e))?;
        Ok(resident_without_ram(&text))
    }
}

fn read(account: &File) -> Result<String, MachineError> {
    let mut text = [0; 1024];
    let length = account
        .read_at(&mut text, 0)
        .map_err(|e| MachineError::system("cannot read QEMU's processor time", e))?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// User and system time of a line as in `/proc/PID/stat` (proc(5)), in milliseconds.
fn processor_time(stat: &str, ticks: Ticks) -> Counters {
    // The name, in brackets, may hold anything; the fields are counted behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Fields 14 and 15 of the line are the 12th and 13th behind the name.
    [("user_milliseconds", 11), ("system_milliseconds", 12)]
        .into_iter()
        .filter_map(|(name, index)| {
            let count = fields.get(index)?.parse().ok()?;
            Some((name.to_owned(), ticks.milliseconds(count)))
        })
        .collect()
}

/// The counters of one entry of `query-blockstats` (QEMU qapi/block-core.json) under the names our
/// own block device has; `None` for flash.
fn disk(block: &Value) -> Option<(String, Counters)> {
    let path = block["qdev"].as_str()?;
    let name = path.split('/').find(|part| part.starts_with("block"))?;
    let sum = |prefix: &str, kinds: &[&str]| -> Option<u64> {
        kinds.iter().map(|kind| block["stats"][format!("{prefix}{kind}_operations")].as_u64()).sum()
    };
    let bytes = |key: &str| block["stats"][key].as_u64();
    let all = ["rd", "wr", "flush", "unmap"];
    let counters = [
        ("requests", sum("", &all)),
        ("bytes-read", bytes("rd_bytes")),
        ("bytes-written", bytes("wr_bytes")),
        ("flushes", sum("", &["flush"])),
        ("errors", sum("failed_", &all)),
        ("refused", sum("invalid_", &all)),
    ];
    let counters = counters.into_iter().filter_map(|(name, count)| Some((name.to_owned(), count?)));
    Some((name.to_owned(), counters.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let line = "7 (CPU 0/TCG) ) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        let counters = processor_time(line, Ticks(100));
        assert_eq!(counters["user_milliseconds"], 2500);
        assert_eq!(counters["system_milliseconds"], 500);
        assert!(processor_time("", Ticks(100)).is_empty());
    }

    #[test]
    fn disks_are_named_as_engine_kvm_names_them() {
        let block = json!({
            "qdev": "/machine/peripheral/block1/virtio-backend",
            "stats": {
                "rd_operations": 3, "wr_operations": 2, "flush_operations": 1,
                "unmap_operations": 0, "rd_bytes": 4096
            }
        });
        let (name, counters) = disk(&block).unwrap();
        assert_eq!(name, "block1");
        assert_eq!(counters["requests"], 6);
        assert_eq!(counters["bytes-read"], 4096);
        assert!(!counters.contains_key("errors"), "QEMU said nothing of them");
        assert!(disk(&json!({"qdev": "/machine/system.flash0"})).is_none());
    }
}
