//! What processes cost, as the kernel counts it.

use crate::failure::{Result, system};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Sub;

/// Of some processes, from their start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Nanoseconds on a CPU (Documentation/scheduler/sched-stats, `/proc/PID/schedstat`).
    pub(crate) nanoseconds: u64,
    /// As user and system time count it.
    pub(crate) jiffies: u64,
    /// Times that one of their threads went to sleep.
    pub(crate) sleeps: u64,
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            nanoseconds: self.nanoseconds.saturating_sub(before.nanoseconds),
            jiffies: self.jiffies.saturating_sub(before.jiffies),
            sleeps: self.sleeps.saturating_sub(before.sleeps),
        }
    }
}

/// Of these processes and all that they have started and that still run.
pub(crate) fn of(roots: &[u32]) -> Result<Cost> {
    let processes = processes()?;
    let mut all: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let before = all.len();
        all.extend(
            processes
                .iter()
                .filter(|(_, (parent, _))| all.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if all.len() == before {
            break;
        }
    }
    let mut cost = Cost::default();
    for pid in all {
        if let Some((_, jiffies)) = processes.get(&pid) {
            cost.jiffies += jiffies;
        }
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // A thread may have ended since.
            let read =
                |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            cost.nanoseconds += first_number(&read("schedstat"));
            let status = read("status");
            let slept =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            cost.sleeps += slept.map_or(0, first_number);
        }
    }
    Ok(cost)
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Parent and jiffies of each process.
fn processes() -> Result<BTreeMap<u32, (u32, u64)>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").map_err(system("read /proc"))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let text = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(found) = stat(&text) {
            all.insert(pid, found);
        }
    }
    Ok(all)
}

/// Fields 4, and 14 and 15, of `/proc/PID/stat` (proc(5)); the name before them may have anything in it.
fn stat(text: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    Some((u32::try_from(number(4)?).ok()?, number(14)? + number(15)?))
}

#[cfg(test)]
mod tests {
    use super::{of, stat};

    #[test]
    fn names_with_brackets_and_spaces_do_no_harm() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 50 6 0 0 20 0 1 0 9 9 9";
        assert_eq!(stat(text), Some((3, 56)));
        assert_eq!(stat("7 (cut off"), None);
    }

    #[test]
    fn work_and_sleep_are_counted() {
        let own = [std::process::id()];
        let before = of(&own).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let mut number = 1_u64;
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 30 {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let cost = of(&own).unwrap() - before;
        assert!(cost.nanoseconds > 0 && cost.sleeps > 0, "{cost:?}");
    }
}
