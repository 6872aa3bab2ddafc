//! Figures about a VM run by QEMU: what QEMU and the kernel count, nothing else.

use super::qmp::Qmp;
use crate::MachineError;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use vm_control::{Counters, Statistics};

/// The kernel's accounts of QEMU's threads, opened before the sandbox closes.
pub(super) struct Accounts {
    processors: Vec<File>,
    whole: File,
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
        devices.insert("qemu".to_owned(), processor_time(&read(&self.whole)?));
        let processors = self.processors.iter();
        Ok(Statistics {
            processors: processors
                .map(|account| read(account).map(|text| processor_time(&text)))
                .collect::<Result<_, _>>()?,
            devices,
            overhead: 0,
        })
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
fn processor_time(stat: &str) -> Counters {
    // The name, in brackets, may hold anything; the fields are counted behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    // Fields 14 and 15 of the line are the 12th and 13th behind the name.
    [("user_milliseconds", 11), ("system_milliseconds", 12)]
        .into_iter()
        .filter_map(|(name, index)| {
            let value: u64 = fields.get(index)?.parse().ok()?;
            Some((name.to_owned(), value.saturating_mul(1000) / ticks))
        })
        .collect()
}

/// The counters of one entry of `query-blockstats` (QEMU qapi/block-core.json) under the name our
/// own block device has; `None` for flash.
fn disk(block: &Value) -> Option<(String, Counters)> {
    let path = block["qdev"].as_str()?;
    let name = path.split('/').find(|part| part.starts_with("block"))?;
    let count = |key: &str| block["stats"][key].as_u64();
    let counters = [
        ("reads", "rd_operations"),
        ("writes", "wr_operations"),
        ("flushes", "flush_operations"),
        ("discards", "unmap_operations"),
        ("bytes_read", "rd_bytes"),
        ("bytes_written", "wr_bytes"),
    ];
    let counters = counters
        .into_iter()
        .filter_map(|(ours, theirs)| Some((ours.to_owned(), count(theirs)?)));
    Some((name.to_owned(), counters.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let line = "7 (CPU 0/TCG) ) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        let counters = processor_time(line);
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(counters["user_milliseconds"], 250_000 / ticks);
        assert_eq!(counters["system_milliseconds"], 50_000 / ticks);
        assert!(processor_time("").is_empty());
    }

    #[test]
    fn disks_are_named_as_engine_kvm_names_them() {
        let block = json!({
            "qdev": "/machine/peripheral/block1/virtio-backend",
            "stats": {"rd_operations": 3, "rd_bytes": 4096}
        });
        let (name, counters) = disk(&block).unwrap();
        assert_eq!(name, "block1");
        assert_eq!(counters["reads"], 3);
        assert_eq!(counters["bytes_read"], 4096);
        assert!(!counters.contains_key("writes"));
        assert!(disk(&json!({"qdev": "/machine/system.flash0"})).is_none());
    }
}
