//! The lab machine's read-only root image: real Debian packages, extracted without running their
//! scripts (mmdebstrap's `extract` variant), and the Debian kernel that both the lab machine and
//! the guests inside it boot.

use crate::cpio::Archive;
use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step, during};
use crate::{packages, sources, workspace};
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the lab machine's programs come from.
const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "busybox-static",
    "bash",
    "dash",
    "coreutils",
    "util-linux",
    "mount",
    "procps",
    "kmod",
    "grep",
    "sed",
    "gawk",
    "findutils",
    "diffutils",
    "iproute2",
    "iputils-ping",
    "socat",
    "iperf3",
    "expect",
    "strace",
    "e2fsprogs",
    "dosfstools",
    "mtools",
    "fdisk",
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "passt",
    "libcap-ng0",
    "libseccomp2",
    "systemd-boot-efi",
    "binutils",
    "netbase",
    "base-files",
    "base-passwd",
    "libc-bin",
    "python3-minimal",
    "e2fsprogs",
    "git",
    "xvfb",
    "xclip",
    "l3afpad",
    "xterm",
    "openbox",
    "wmctrl",
    "xdotool",
    "x11-utils",
    "libx11-xcb1",
    "libxcursor1",
    "libxi6",
    "libxkbcommon-x11-0",
    "desktop-file-utils",
    "libgtk-3-bin",
    "dbus-daemon",
    "libnotify-bin",
    "xdg-utils",
];
/// Packages that come from backports where the release's own are too old.
const FROM_BACKPORTS: &str =
    "Package: src:qemu src:seabios\nPin: release n={suite}\nPin-Priority: 990\n";
/// Kernel folders that neither the lab machine nor a guest has hardware for.
const LEFT_OUT: &[&str] = &[
    "drivers/gpu/drm/amd",
    "drivers/gpu/drm/ast",
    "drivers/gpu/drm/gma500",
    "drivers/gpu/drm/i915",
    "drivers/gpu/drm/mgag200",
    "drivers/gpu/drm/nouveau",
    "drivers/gpu/drm/radeon",
    "drivers/gpu/drm/vmwgfx",
    "drivers/media",
    "drivers/net/wireless",
    "drivers/net/ethernet",
    "drivers/infiniband",
    "drivers/isdn",
    "drivers/staging",
    "drivers/iio",
    "drivers/hwmon",
    "drivers/usb",
    "drivers/scsi",
    "drivers/mtd",
    "drivers/md",
    "sound",
];
/// What the lab machine's first program needs loaded before it can mount its root.
const BOOT_MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_console", "squashfs", "overlay"];
/// Changes whenever the recipe below does.
const RECIPE: u32 = 4;

/// The finished artifacts.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Folder that holds them; its name changes with their inputs.
    pub(crate) folder: PathBuf,
    /// Version of the kernel, the name of its module folder.
    pub(crate) kernel_version: String,
}

impl Image {
    /// The root file system.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root.squashfs")
    }
    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }
    /// The lab machine's initial RAM disk.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.cpio")
    }
    /// The kernel's modules on this machine, to put into guests.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("modules").join("lib/modules").join(&self.kernel_version)
    }
    /// A static busybox.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.folder.join("busybox")
    }

    /// Puts busybox into an archive as /bin/busybox, with a link for each of its programs.
    pub(crate) fn add_busybox(&self, archive: &mut Archive) -> Result {
        let path = self.busybox();
        let content = std::fs::read(&path).context(|| format!("read {}", path.display()))?;
        archive.file("/bin/busybox", 0o755, &content);
        let applets = Step::new(path).argument("--list").text().unwrap_or_default();
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            archive.link(&format!("/bin/{applet}"), "busybox");
        }
        Ok(())
    }

    /// Puts modules and all they need into an archive under `/modules`, named in load order in
    /// `/modules/order`.
    pub(crate) fn add_modules(&self, archive: &mut Archive, names: &[&str]) -> Result {
        let mut order = String::new();
        for path in load_order(&self.modules(), names)? {
            let content = std::fs::read(&path).context(|| format!("read {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            archive.file(&format!("/modules/{name}"), 0o644, &content);
            let _ = writeln!(order, "{name}");
        }
        archive.file("/modules/order", 0o644, order.as_bytes());
        Ok(())
    }
}

/// Builds the image when its inputs changed, and names it.
pub(crate) fn prepare() -> Result<Image> {
    packages::require(packages::LAB)?;
    let _lock = workspace::lock("image")?;
    let sources = archives()?;
    let mut hasher = DefaultHasher::new();
    (RECIPE, PACKAGES, LEFT_OUT, BOOT_MODULES, INIT, &sources).hash(&mut hasher);
    for package in ["linux-image-amd64", "qemu-system-x86", "ovmf", "passt", "libc6"] {
        packages::candidate(package).hash(&mut hasher);
    }
    let folder = workspace::folder("lab")?.join(format!("image-{:016x}", hasher.finish()));
    if !folder.join("complete").exists() {
        let draft = workspace::folder("lab")?.join("image.draft");
        during("building the lab machine's image", || build(&draft, &sources))?;
        remove_others(&folder)?;
        std::fs::rename(&draft, &folder).context(|| format!("name {}", folder.display()))?;
    }
    let kernel_version = std::fs::read_to_string(folder.join("kernel-version"))
        .context(|| format!("read {}", folder.join("kernel-version").display()))?;
    Ok(Image { folder, kernel_version: kernel_version.trim().to_owned() })
}

/// The release's archives, and its backports whether configured or not.
fn archives() -> Result<Vec<String>> {
    let (distribution, codename) = sources::release()
        .filter(|(distribution, _)| distribution == "debian")
        .ok_or_else(|| {
            Failure::new(
                "the lab machine is made of the host's own Debian packages; this host is no Debian",
            )
        })?;
    debug_assert_eq!(distribution, "debian");
    let mut configured = sources::configured(&codename);
    let backports = format!("{codename}-backports");
    if !configured.iter().any(|source| source.suite == backports) {
        let mut base = packages::base(&configured, &codename)?;
        base.suite = backports;
        configured.push(base);
    }
    Ok(configured.iter().map(sources::Source::line).collect())
}

fn build(draft: &Path, sources: &[String]) -> Result {
    let _ = std::fs::remove_dir_all(draft);
    std::fs::create_dir_all(draft).context(|| format!("make {}", draft.display()))?;
    let log = draft.join("build.log");
    let logged = || Output::Logged(log.clone());
    let (_, codename) = sources::release().unwrap_or_default();
    let preferences = draft.join("preferences");
    let list = draft.join("sources.list");
    write(
        &preferences,
        FROM_BACKPORTS.replace("{suite}", &format!("{codename}-backports")).as_bytes(),
    )?;
    write(&list, (sources.join("\n") + "\n").as_bytes())?;
    let tar = draft.join("root.tar");
    Step::as_root("mmdebstrap")
        .arguments(["--variant=extract", "--format=tar", "--skip=check/qemu", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"])
        .argument("--aptopt=APT::Install-Recommends \"false\"")
        .arguments(["doc", "man", "locale", "info"].map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*")))
        .argument(format!(
            "--setup-hook=mkdir -p \"$1/etc/apt/preferences.d\" && cp '{}' \"$1/etc/apt/preferences.d/lab\"",
            preferences.display()
        ))
        .argument(format!("--include={}", PACKAGES.join(",")))
        .argument(&codename)
        .argument(&tar)
        .argument(&list)
        .limit(Duration::from_secs(1500))
        .run(logged())?;
    let root = draft.join("root");
    std::fs::create_dir_all(&root).context(|| format!("make {}", root.display()))?;
    Step::new("tar")
        .argument("-xf")
        .argument(&tar)
        .argument("-C")
        .argument(&root)
        .arguments(["--no-same-owner", "--exclude=./dev/*"])
        .run(logged())?;
    remove(&tar)?;
    let kernel_version = kernel_version(&root)?;
    write(&draft.join("kernel-version"), kernel_version.as_bytes())?;
    copy(&root.join("boot").join(format!("vmlinuz-{kernel_version}")), &draft.join("vmlinuz"))?;
    copy(&root.join("usr/bin/busybox"), &draft.join("busybox"))?;
    let modules = root.join("usr/lib/modules").join(&kernel_version);
    for left_out in LEFT_OUT {
        let _ = std::fs::remove_dir_all(modules.join("kernel").join(left_out));
    }
    Step::new("depmod")
        .arguments(["-b"])
        .argument(root.join("usr"))
        .argument(&kernel_version)
        .variable("PATH", with_sbin())
        .run(logged())?;
    let kept = draft.join("modules/lib/modules");
    std::fs::create_dir_all(&kept).context(|| format!("make {}", kept.display()))?;
    Step::new("cp")
        .arguments(["-a", "--reflink=auto"])
        .argument(&modules)
        .argument(&kept)
        .run(logged())?;
    // No package script ran: the linker's cache and the passwords of the base system are made here.
    write(&root.join("etc/passwd"), b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")?;
    write(&root.join("etc/group"), b"root:x:0:\ntty:x:5:\nkvm:x:104:\nnogroup:x:65534:\n")?;
    write(&root.join("etc/hosts"), b"127.0.0.1 localhost lab\n::1 localhost\n")?;
    // No package script ran to make the links that the system's programs go by.
    if !root.join("usr/bin/sh").exists() {
        std::os::unix::fs::symlink("dash", root.join("usr/bin/sh"))
            .context(|| "link sh".to_owned())?;
    }
    std::os::unix::fs::symlink("gawk", root.join("usr/bin/awk"))
        .context(|| "link awk".to_owned())?;
    for folder in ["lab", "opt/lab"] {
        std::fs::create_dir_all(root.join(folder))
            .context(|| format!("make /{folder} in the image"))?;
    }
    Step::new("ldconfig")
        .argument("-r")
        .argument(&root)
        .variable("PATH", with_sbin())
        .run(logged())?;
    let squash = draft.join("root.squashfs");
    Step::new("mksquashfs")
        .argument(&root)
        .argument(&squash)
        .arguments([
            "-noI",
            "-noD",
            "-noF",
            "-noX",
            "-all-root",
            "-no-progress",
            "-quiet",
            "-no-xattrs",
        ])
        .run(logged())?;
    std::fs::remove_dir_all(&root).context(|| format!("remove {}", root.display()))?;
    let image = Image { folder: draft.to_path_buf(), kernel_version };
    let mut archive = Archive::new();
    for folder in ["/dev", "/proc", "/root-image", "/files", "/writable", "/new"] {
        archive.folder(folder);
    }
    archive.device("/dev/console", 5, 1);
    archive.file(
        "/bin/busybox",
        0o755,
        &std::fs::read(image.busybox()).context(|| "read busybox".to_owned())?,
    );
    archive.file("/init", 0o755, INIT.as_bytes());
    image.add_modules(&mut archive, BOOT_MODULES)?;
    write(&image.initrd(), &archive.finish())?;
    write(&draft.join("complete"), b"")
}

/// The lab machine's first program: root image below, this run's files above it, a RAM disk on top.
const INIT: &str = include_str!("../../tests/lab/machine/initrd.sh");

fn with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn kernel_version(root: &Path) -> Result<String> {
    let folder = root.join("usr/lib/modules");
    let mut versions: Vec<String> = std::fs::read_dir(&folder)
        .context(|| format!("read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    versions.sort();
    versions.pop().ok_or_else(|| Failure::new(format!("no kernel in {}", folder.display())))
}

/// The files of `names` and of everything they depend on, dependencies first, from `modules.dep`
/// (depmod(8)). Modules built into the kernel are left out.
fn load_order(modules: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string(modules.join("modules.dep"))
        .context(|| format!("read {}", modules.join("modules.dep").display()))?;
    let builtin = std::fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default();
    let stem = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split(".ko").next().unwrap_or(file).replace('-', "_")
    };
    let mut order: Vec<PathBuf> = Vec::new();
    for name in names {
        let wanted = name.replace('-', "_");
        let Some((path, needs)) = table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| stem(path) == wanted)
        else {
            if builtin.lines().any(|line| stem(line) == wanted) {
                continue;
            }
            return Err(Failure::new(format!("the kernel has no module {name}")));
        };
        // depmod lists the deepest dependency last.
        for file in needs.split_whitespace().rev().chain([path]) {
            let file = modules.join(file);
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Ok(order)
}

fn remove_others(keep: &Path) -> Result {
    for entry in std::fs::read_dir(workspace::folder("lab")?)
        .context(|| "read target/lab".to_owned())?
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with("image-") && entry.path() != keep {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result {
    std::fs::write(path, content).context(|| format!("write {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result {
    std::fs::copy(from, to).context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn remove(path: &Path) -> Result {
    // Made by root through sudo on some machines, in a folder of ours.
    std::fs::remove_file(path).context(|| format!("remove {}", path.display()))
}
