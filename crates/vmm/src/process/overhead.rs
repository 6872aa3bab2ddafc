//! What the process costs beyond guest RAM.

/// Mappings of guest RAM are named after the memfd: ours, or QEMU's, which we map to serve it
/// devices; or after the core's pool.
const RAM_MAPPINGS: [&str; 3] = ["/memfd:guest-ram", "/memfd:memory-backend-memfd", "/dev/dax"];

/// Resident KiB of this process that are not guest RAM; 0 when the kernel does not say.
pub(super) fn kib() -> u64 {
    std::fs::read_to_string("/proc/self/smaps").map_or(0, |smaps| resident_without_ram(&smaps))
}

/// Sums `Rss:` of every mapping but guest RAM (Linux Documentation/filesystems/proc.rst).
pub(crate) fn resident_without_ram(smaps: &str) -> u64 {
    let mut is_ram = false;
    let mut total = 0;
    for line in smaps.lines() {
        if let Some(value) = line.strip_prefix("Rss:") {
            if !is_ram {
                let kib = value.trim().trim_end_matches(" kB").parse().unwrap_or(0);
                total += kib;
            }
        } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
            is_ram = RAM_MAPPINGS.iter().any(|name| line.contains(name));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_does_not_count() {
        let smaps = "\
7f00-7f10 rw-s 00000000 00:01 5 /memfd:guest-ram (deleted)
Size:                 64 kB
Rss:                  60 kB
7f20-7f30 r-xp 00000000 08:01 7 /usr/lib/libc.so.6
Rss:                 100 kB
Shared_Clean:          8 kB
7f30-7f40 rw-s 00000000 00:01 6 /memfd:memory-backend-memfd (deleted)
Rss:                  70 kB
7f38-7f39 rw-s 00400000 00:06 9 /dev/dax0.0
Rss:                2048 kB
7f40-7f50 rw-p 00000000 00:00 0
Rss:                  11 kB
";
        assert_eq!(resident_without_ram(smaps), 111);
        assert!(kib() > 0);
    }
}
