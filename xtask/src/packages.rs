//! Installs the system packages a step needs, by name, with the system's own tool.
//!
//! Only Debian is known. Elsewhere the programs a step calls must be there already, and a missing
//! one is named by the step that calls it.

use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step};
use crate::sources::{self, Source};
use crate::workspace;
use std::time::Duration;

/// To build the workspace: a linker, and the C library to link it with, statically too.
pub(crate) const BUILD: &[&str] = &["gcc", "libc6-dev", "nasm"];
/// To build virtiofsd.
pub(crate) const VIRTIOFSD: &[&str] = &["libcap-ng-dev", "libseccomp-dev"];
/// To run the engine `tcg` and its demo guest.
pub(crate) const DEMO: &[&str] = &[
    "qemu-system-x86",
    // The display by which a guest hears that its screen has another size.
    "qemu-system-modules-opengl",
    "qemu-utils",
    "ovmf",
    "passt",
    "mmdebstrap",
    "e2fsprogs",
    "expect",
];
/// To test the agents against a desktop's parts.
pub(crate) const DESKTOP: &[&str] = &[
    "dbus-bin",
    "dbus-daemon",
    "desktop-file-utils",
    "featherpad",
    "edid-decode",
    "libglib2.0-bin",
    "libgtk-3-bin",
    "libnotify-bin",
    "imagemagick",
    "libx11-xcb1",
    "libxcursor1",
    "libxi6",
    "libxkbcommon-x11-0",
    "mesa-vulkan-drivers",
    "openbox",
    "sway",
    "wl-clipboard",
    "wmctrl",
    "x11-apps",
    "x11-utils",
    "x11-xkb-utils",
    "x11-xserver-utils",
    "xclip",
    "xcompmgr",
    "xdg-utils",
    "xdotool",
    "xterm",
    "xvfb",
    "zenity",
];
/// To measure windows on the desktop beside xpra. What comes after it are parts that the package only
/// recommends and cannot show a window without.
pub(crate) const SEAMLESS: &[&str] =
    &["openbox", "util-linux", "xvfb", "xpra", "python3-pil", "python3-gi-cairo", "python3-lz4"];
/// To make and run lab machines.
pub(crate) const LAB: &[&str] =
    &["qemu-system-x86", "mmdebstrap", "squashfs-tools", "kmod", "busybox-static"];

/// To run the core on bare machines.
pub(crate) const CORE: &[&str] = &[
    "qemu-system-x86",
    "bochs",
    "bochs-term",
    "bochsbios",
    "vgabios",
    "grub-common",
    "grub-pc-bin",
    "xorriso",
    "binutils",
];

/// QEMU's software CPU has an x2APIC from this major version on.
const QEMU_MAJOR: u32 = 9;

/// Makes sure these packages are installed; says what it installs.
pub(crate) fn require(names: &[&str]) -> Result {
    let Some((distribution, codename)) = sources::release() else {
        return Ok(());
    };
    if distribution != "debian" {
        eprintln!(
            "note: not a Debian machine ({distribution}): nothing is installed, these must be there: {}",
            names.join(" ")
        );
        return Ok(());
    }
    let mut missing: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    missing.sort_unstable();
    missing.dedup();
    let qemu = names.iter().any(|name| name.starts_with("qemu-"));
    let old = qemu
        && !missing.contains(&"qemu-system-x86")
        && version("${Version}", "qemu-system-x86") < QEMU_MAJOR;
    if missing.is_empty() && !old {
        return Ok(());
    }
    let _lock = workspace::lock("packages")?;
    let log = workspace::folder("lab")?.join("apt.log");
    let backports = format!("{codename}-backports");
    let (of_qemu, plain): (Vec<&str>, Vec<&str>) =
        missing.iter().partition(|name| name.starts_with("qemu-"));
    if !plain.is_empty() {
        install(&plain, None, &log)?;
    }
    if of_qemu.is_empty() && !old {
        return Ok(());
    }
    if candidate_major("qemu-system-x86").is_none() {
        update(&log)?;
    }
    let wanted = if old { vec!["qemu-system-x86", "qemu-utils"] } else { of_qemu };
    if candidate_major("qemu-system-x86").is_some_and(|major| major >= QEMU_MAJOR) {
        return install(&wanted, None, &log);
    }
    add_backports(&codename, &backports, &log)?;
    install(&wanted, Some(&backports), &log)
}

/// True when nothing is to be installed for these.
pub(crate) fn are_installed(names: &[&str]) -> bool {
    names.iter().all(|name| installed(name))
}

fn installed(name: &str) -> bool {
    Step::new("dpkg-query")
        .arguments(["-W", "-f=${db:Status-Status}", name])
        .text()
        .is_some_and(|text| text == "installed")
}

fn version(format: &str, name: &str) -> u32 {
    Step::new("dpkg-query")
        .arguments(["-W", &format!("-f={format}"), name])
        .text()
        .and_then(|text| major(&text))
        .unwrap_or(0)
}

/// `1:10.0.2+ds-2` -> 10
fn major(version: &str) -> Option<u32> {
    let upstream = version.trim().rsplit_once(':').map_or(version.trim(), |(_, rest)| rest);
    upstream.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The version apt would install, as text.
pub(crate) fn candidate(name: &str) -> Option<String> {
    let text = Step::new("apt-cache").variable("LC_ALL", "C").arguments(["policy", name]).text()?;
    let version =
        text.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim().to_owned();
    (version != "(none)").then_some(version)
}

fn candidate_major(name: &str) -> Option<u32> {
    candidate(name).and_then(|version| major(&version))
}

fn apt(log: &std::path::Path, arguments: &[&str]) -> Result {
    Step::as_root("env")
        .arguments([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .arguments(arguments)
        .limit(Duration::from_secs(1200))
        .run(Output::Logged(log.to_path_buf()))
}

fn update(log: &std::path::Path) -> Result {
    crate::process::during("apt-get update", || apt(log, &["update"]))
}

fn install(names: &[&str], suite: Option<&str>, log: &std::path::Path) -> Result {
    let from = suite.map(|suite| format!(" from {suite}")).unwrap_or_default();
    crate::process::during(&format!("installing{from}: {}", names.join(" ")), || {
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        if let Some(suite) = suite {
            arguments.extend(["-t", suite]);
        }
        arguments.extend(names);
        // Package lists that are missing or old are the usual reason for a failure: fetch and try again.
        if apt(log, &arguments).is_ok() {
            return Ok(());
        }
        apt(log, &["update"])?;
        apt(log, &arguments)
    })
}

fn add_backports(codename: &str, backports: &str, log: &std::path::Path) -> Result {
    let configured = sources::configured(codename);
    if !configured.iter().any(|source| source.suite == backports) {
        let base = base(&configured, codename)?;
        let signed =
            base.signed_by.as_ref().map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
        let text = format!(
            "Types: deb\nURIs: {}\nSuites: {backports}\nComponents: main\n{signed}",
            base.uri
        );
        let file = format!("/etc/apt/sources.list.d/{backports}.sources");
        eprintln!(
            "==> adding the suite {backports} of {} as {file}: QEMU {QEMU_MAJOR} or newer is needed",
            base.uri
        );
        let draft = workspace::folder("lab")?.join("backports.sources");
        std::fs::write(&draft, text).context(|| format!("write {}", draft.display()))?;
        Step::as_root("install")
            .arguments(["-m", "0644"])
            .argument(&draft)
            .argument(&file)
            .run(Output::Shown)?;
    }
    update(log)
}

/// The machine's own archive of the release.
pub(crate) fn base(configured: &[Source], codename: &str) -> Result<Source> {
    configured.iter().find(|source| source.suite == codename).cloned().ok_or_else(|| {
        Failure::new(format!("no archive with suite {codename} and component main in /etc/apt/sources.list or /etc/apt/sources.list.d: add one, then run again"))
    })
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_survives_epochs_and_suffixes() {
        assert_eq!(major("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some(10));
        assert_eq!(major("7.2"), Some(7));
        assert_eq!(major(""), None);
    }
}
