//! The boot archive: root's image, the manifest, and the files of every guest. Core and monitor read
//! it (crates `hypervisor-boot`, `hypervisor-monitor`).

use crate::cpio::Archive;
use crate::failure::{Context, Failure, Result};
use std::fmt::Write as _;
use std::path::Path;

/// Where a guest's disk comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// An image in the archive.
    Image(Vec<u8>),
    /// The machine's own virtio disk.
    Machine,
}

/// One guest and its files.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// Its name, the prefix of its console's lines.
    pub(crate) name: String,
    /// RAM in MiB.
    pub(crate) memory: u64,
    /// Virtual CPUs.
    pub(crate) vcpus: u32,
    /// A bzImage, a Multiboot kernel or a tiny guest.
    pub(crate) kernel: Vec<u8>,
    /// Its initial RAM disk, or a Multiboot kernel's first module.
    pub(crate) initrd: Option<Vec<u8>>,
    /// Its command line.
    pub(crate) append: String,
    /// Its disk.
    pub(crate) disk: Option<Disk>,
    /// Whether it has a network card.
    pub(crate) net: bool,
}

/// The files of an archive, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    /// Those of a machine with these guests: `root` first, so that it is found without a search.
    pub(crate) fn new(root: &Path, guests: &[Guest]) -> Result<Self> {
        let image = std::fs::read(root).context(|| format!("read {}", root.display()))?;
        let mut files = vec![
            ("root".to_owned(), image),
            ("manifest".to_owned(), manifest(guests)?.into_bytes()),
        ];
        for guest in guests {
            let disk = match &guest.disk {
                Some(Disk::Image(image)) => Some(image),
                _ => None,
            };
            for (name, content) in
                [("kernel", Some(&guest.kernel)), ("initrd", guest.initrd.as_ref()), ("disk", disk)]
            {
                if let Some(content) = content {
                    files.push((format!("{}/{name}", guest.name), content.clone()));
                }
            }
        }
        Ok(Self(files))
    }

    /// Gives a file other contents, or adds it as the last.
    pub(crate) fn set(&mut self, name: &str, content: &[u8]) {
        let content = content.to_vec();
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some(file) => file.1 = content,
            None => self.0.push((name.to_owned(), content)),
        }
    }

    /// Takes a file out.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| other != name);
    }

    /// The archive.
    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut archive = Archive::new();
        for (name, content) in &self.0 {
            archive.file(name, 0o644, content);
        }
        archive.finish()
    }
}

/// The manifest: one block of lines per guest, in the words the monitor reads.
fn manifest(guests: &[Guest]) -> Result<String> {
    let mut text = String::new();
    for guest in guests {
        let name = &guest.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Failure::new(format!(
                "`{name}` cannot be a guest's name: letters, digits, - and _ only"
            )));
        }
        if guest.append.contains('\n') {
            return Err(Failure::new(format!(
                "the command line of guest {name} has more than one line"
            )));
        }
        let _ = write!(
            text,
            "guest {name}\n  memory {}\n  vcpus {}\n  kernel {name}/kernel\n",
            guest.memory, guest.vcpus
        );
        if guest.initrd.is_some() {
            let _ = writeln!(text, "  initrd {name}/initrd");
        }
        if !guest.append.is_empty() {
            let _ = writeln!(text, "  append {}", guest.append);
        }
        match guest.disk {
            Some(Disk::Image(_)) => drop(writeln!(text, "  disk {name}/disk")),
            Some(Disk::Machine) => text.push_str("  disk machine\n"),
            None => {}
        }
        let _ = writeln!(text, "  net {}", if guest.net { "yes" } else { "no" });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest {
            name: "one".to_owned(),
            memory: 64,
            vcpus: 2,
            kernel: b"kernel".to_vec(),
            initrd: Some(b"initrd".to_vec()),
            append: "console=ttyS0 quiet".to_owned(),
            disk: Some(Disk::Machine),
            net: true,
        }
    }

    #[test]
    fn the_manifest_has_the_monitors_words() {
        assert_eq!(
            manifest(&[guest()]).expect("fine"),
            "guest one\n  memory 64\n  vcpus 2\n  kernel one/kernel\n  initrd one/initrd\n  \
             append console=ttyS0 quiet\n  disk machine\n  net yes\n"
        );
        let mut named = guest();
        named.name = "no name".to_owned();
        assert!(manifest(&[named]).is_err());
        let mut lines = guest();
        lines.append = "a\nguest evil".to_owned();
        assert!(manifest(&[lines]).is_err());
    }

    #[test]
    fn the_core_reads_back_what_was_packed_and_root_is_first() {
        let root = std::env::current_exe().expect("a test has a file");
        let bytes = Files::new(&root, &[guest()]).expect("readable").pack();
        let archive = hypervisor_boot::archive::Archive::new(&bytes);
        let names: Vec<String> =
            archive.files().map(|file| file.expect("well formed").name.to_owned()).collect();
        assert_eq!(names, ["root", "manifest", "one/kernel", "one/initrd"]);
        let kernel = archive.find("one/kernel").expect("well formed");
        assert_eq!(kernel.expect("there").contents, b"kernel");
    }

    #[test]
    fn a_file_is_replaced_where_it_was_and_taken_out() {
        let root = std::env::current_exe().expect("a test has a file");
        let mut files = Files::new(&root, &[guest()]).expect("readable");
        files.set("root", b"text");
        files.set("more", b"last");
        files.remove("manifest");
        let names: Vec<&str> = files.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["root", "one/kernel", "one/initrd", "more"]);
        assert_eq!(files.0[0].1, b"text");
    }
}
