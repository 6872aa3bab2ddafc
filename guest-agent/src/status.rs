//! How the guest is.

use std::collections::BTreeSet;
use std::fs;

use proto::v1::GuestStatusReply;

/// Most users told, as the protocol says.
const MOST_USERS: usize = 64;
/// Longest name of a user in bytes (useradd(8)).
pub const LONGEST_USER: usize = 32;
/// Longest name of a system in bytes, as the protocol says.
const LONGEST_SYSTEM: usize = 128;

/// The system's name for a person (os-release(5)).
#[must_use]
pub fn system_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = pretty_name(&text).filter(|name| name.len() <= LONGEST_SYSTEM);
    name.unwrap_or("Linux").to_owned()
}

fn pretty_name(release: &str) -> Option<&str> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches('"'))
}

/// Memory, disk, load and who is there.
#[must_use]
pub fn status() -> GuestStatusReply {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let disk = rustix::fs::statvfs("/").ok();
    let blocks = |count: fn(&rustix::fs::StatVfs) -> u64| {
        disk.as_ref().map_or(0, |disk| count(disk).saturating_mul(disk.f_frsize))
    };
    GuestStatusReply {
        memory_total: meminfo(&memory, "MemTotal"),
        memory_available: meminfo(&memory, "MemAvailable"),
        disk_total: blocks(|disk| disk.f_blocks),
        disk_available: blocks(|disk| disk.f_bavail),
        uptime: scaled(&fs::read_to_string("/proc/uptime").unwrap_or_default(), 1000.0),
        load: u32::try_from(scaled(
            &fs::read_to_string("/proc/loadavg").unwrap_or_default(),
            100.0,
        ))
        .unwrap_or(u32::MAX),
        users: users(),
    }
}

/// A line of /proc/meminfo, which counts KiB, in bytes.
fn meminfo(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
}

/// The first number of a line, times `scale`.
fn scaled(text: &str, scale: f64) -> u64 {
    let number = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    number.map_or(0, |number| (number.max(0.0) * scale) as u64)
}

/// Users with a session, as logind keeps them (its files of sessions have been the same since 2011).
fn users() -> Vec<String> {
    let Ok(sessions) = fs::read_dir("/run/systemd/sessions") else {
        return Vec::new();
    };
    let users: BTreeSet<String> = sessions
        .filter_map(|session| fs::read_to_string(session.ok()?.path()).ok())
        .filter_map(|session| session_user(&session).map(str::to_owned))
        .collect();
    users.into_iter().take(MOST_USERS).collect()
}

fn session_user(session: &str) -> Option<&str> {
    let value =
        |key: &str| session.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    // Not a greeter or a lingering manager.
    (value("CLASS")? == "user").then(|| value("USER")).flatten().filter(|n| n.len() <= LONGEST_USER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_machine_has_memory_a_disk_and_an_uptime() {
        let status = status();
        assert!(status.memory_total >= status.memory_available && status.memory_available > 0);
        assert!(status.disk_total >= status.disk_available && status.disk_total > 0);
        assert!(status.uptime > 0);
        assert!(!system_name().is_empty());
    }

    #[test]
    fn the_files_of_the_system_are_read_as_they_are() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"A B\"\n"), Some("A B"));
        assert_eq!(pretty_name("ID=x\n"), None);
        let memory = "MemTotal:        2048 kB\nMemAvailable:   1 kB\n";
        assert_eq!(meminfo(memory, "MemTotal"), 2 << 20);
        assert_eq!(meminfo(memory, "Mem"), 0);
        assert_eq!(meminfo("MemTotal: x", "MemTotal"), 0);
        assert_eq!(scaled("1.25 3.4", 100.0), 125);
        assert_eq!(scaled("-1", 100.0), 0);
        assert_eq!(scaled("", 100.0), 0);
        assert_eq!(session_user("UID=1\nUSER=ann\nCLASS=user\n"), Some("ann"));
        assert_eq!(session_user("USER=sddm\nCLASS=greeter\n"), None);
        assert_eq!(session_user("CLASS=user\n"), None);
    }
}
