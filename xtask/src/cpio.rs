//! Writes "newc" cpio archives, the format of a Linux initial RAM disk
//! (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive being written, in memory. Every entry belongs to root and has no time, so that the
/// same input gives the same bytes.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    number: u32,
    folders: std::collections::BTreeSet<String>,
}

/// File type bits of `st_mode` (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

impl Archive {
    /// An empty archive.
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), number: 0, folders: std::collections::BTreeSet::new() }
    }

    /// Adds a folder and those above it.
    pub(crate) fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.folders.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.above(path);
        self.entry(path.trim_start_matches('/'), REGULAR | permissions, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.above(path);
        self.entry(path.trim_start_matches('/'), SYMLINK | 0o777, (0, 0), to.as_bytes());
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.above(path);
        self.entry(path.trim_start_matches('/'), CHARACTER | 0o600, (major, minor), &[]);
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some((above, _)) = path.trim_start_matches('/').rsplit_once('/') {
            self.folder(above);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.number += 1;
        let size = u32::try_from(content.len()).expect("an initial RAM disk's file is below 4 GiB");
        let name = u32::try_from(path.len() + 1).expect("paths are short");
        let fields = [self.number, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn busybox_reads_back_what_was_written() {
        if !std::path::Path::new("/bin/busybox").exists() {
            eprintln!("SKIPPED: no /bin/busybox (package busybox-static)");
            return;
        }
        let mut archive = Archive::new();
        archive.file("/a/b/hello", 0o644, b"hello\n");
        archive.link("/a/link", "b/hello");
        let bytes = archive.finish();
        let mut child = Command::new("/bin/busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("busybox starts");
        child.stdin.take().expect("a pipe").write_all(&bytes).expect("busybox reads");
        let output = child.wait_with_output().expect("busybox ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("a/b/hello") && text.contains("a/link -> b/hello"), "{text}");
    }
}
