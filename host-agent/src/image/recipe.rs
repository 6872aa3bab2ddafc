//! What a guest consists of: packages, settings, and how mmdebstrap is told.

use super::Order;
use crate::problem::Problem;

/// Names within the workplace.
pub(super) const KERNEL: &str = "vmlinuz";
pub(super) const INITRD: &str = "initrd";
pub(super) const DISK: &str = "disk.raw";
/// The package of the guest's agent; empty when there is none.
pub(super) const AGENT: &str = "agent.deb";

/// Enough to log in, use the network, install more, and obey the power button.
const PACKAGES: [&str; 16] = [
    "linux-image-amd64",
    "systemd-sysv",
    "systemd-resolved",
    "systemd-timesyncd",
    "libpam-systemd",
    "dbus",
    "udev",
    "kmod",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "sudo",
    "less",
    "nano",
    "procps",
    "zstd",
];

/// Drivers that find the root disk; everything else loads from it. A short list makes a small
/// initial RAM disk, which a software CPU unpacks quickly.
const EARLY_MODULES: &str = "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\nnvme\nahci\next4\n\
                             crc32c_generic\ncrc32c_intel\n";

/// Runs before the kernel package makes its initial RAM disk. Arguments: root folder, workplace.
const PREPARE: &str = r#"set -eu
root=$1 work=$2
mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/usr/share/initramfs-tools/modules.d"
echo MODULES=list > "$root/etc/initramfs-tools/conf.d/macrohard"
cp "$work/modules" "$root/usr/share/initramfs-tools/modules.d/macrohard"
"#;

/// Runs when all packages are installed. Arguments: root folder, workplace.
const CONFIGURE: &str = r#"set -eu
root=$1 work=$2
hostname=$(cat "$work/hostname") user=$(cat "$work/user")
echo "$hostname" > "$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost\n' "$hostname" > "$root/etc/hosts"
echo 'LABEL=root / ext4 defaults,discard 0 1' > "$root/etc/fstab"
echo LANG=C.UTF-8 > "$root/etc/default/locale"
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' > "$root/etc/systemd/network/80-ethernet.network"
chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-resolved.service
chroot "$root" useradd --create-home --shell /bin/bash --groups sudo "$user"
chroot "$root" chpasswd < "$work/passwords"
if [ -s "$work/agent.deb" ]; then
    cat "$work/agent.deb" > "$root/agent.deb"
    chroot "$root" dpkg --install /agent.deb
    rm "$root/agent.deb"
    # The user's own services, the agent among them, run from the guest's start on.
    mkdir -p "$root/var/lib/systemd/linger"
    : > "$root/var/lib/systemd/linger/$user"
fi
cat "$root"/boot/vmlinuz-* > "$work/vmlinuz"
cat "$root"/boot/initrd.img-* > "$work/initrd"
# Not $root/tmp: mmdebstrap keeps the configuration of its apt there, without which that apt would
# work on the host. The guest empties its /tmp at each start.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log
rm -f "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
# The root folder without the /proc, /sys and /dev that are mounted in it now.
bare=$(mktemp -d)
mount --bind "$root" "$bare"
mke2fs -q -F -t ext4 -L root -d "$bare" "$work/disk.raw" || { umount "$bare"; exit 1; }
umount "$bare"
rmdir "$bare"
"#;

/// An [`Order`] whose values can be written into scripts.
#[derive(Debug)]
pub(super) struct Recipe<'a> {
    order: &'a Order,
}

fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.ends_with('-')
}

/// Debian Policy 5.6.7: lower-case letters, digits, `+-.`; apt also takes `=VERSION` and `:ARCH`.
fn is_package(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:=~".contains(&b))
}

impl<'a> Recipe<'a> {
    pub(super) fn new(order: &'a Order) -> Result<Self, Problem> {
        let name = "1 to 32 lower-case letters, digits and -, beginning with a letter";
        let suite = "a Debian release as in bookworm or stable";
        for (field, value, allowed) in [
            ("--hostname", &order.hostname, name),
            ("--user", &order.user, name),
            ("--suite", &order.suite, suite),
        ] {
            if !is_name(value) {
                return Err(Problem::usage(format!("{field} is {value:?}; allowed: {allowed}")));
            }
        }
        if order.user == "root" {
            return Err(Problem::usage(
                "--user is \"root\"; allowed: another name (root is there anyway)",
            ));
        }
        if order.password.is_empty() || order.password.contains(char::is_control) {
            return Err(Problem::usage(
                "--password is empty or has control characters; allowed: any other text",
            ));
        }
        if let Some(package) = order.include.iter().find(|package| !is_package(package)) {
            return Err(Problem::usage(format!(
                "--include has {package:?}; allowed: names of Debian packages"
            )));
        }
        Ok(Self { order })
    }

    /// What the scripts read, by name.
    pub(super) fn files(&self) -> Vec<(&'static str, String)> {
        let Order { hostname, user, password, .. } = self.order;
        vec![
            ("prepare", PREPARE.to_owned()),
            ("configure", CONFIGURE.to_owned()),
            ("modules", EARLY_MODULES.to_owned()),
            ("hostname", hostname.clone()),
            ("user", user.clone()),
            ("passwords", format!("root:{password}\n{user}:{password}\n")),
        ]
    }

    /// Arguments for mmdebstrap; the workplace is reached through descriptor `workplace`.
    pub(super) fn arguments(&self, workplace: i32, sources: &[String]) -> Vec<String> {
        let mut packages: Vec<&str> = PACKAGES.to_vec();
        packages.extend(self.order.include.iter().map(String::as_str));
        let work = format!("/proc/self/fd/{workplace}");
        let hook = |hook: &str, script: &str| format!("--{hook}=sh {work}/{script} \"$1\" {work}");
        let mut arguments = vec![
            "--variant=minbase".to_owned(),
            "--mode=auto".to_owned(),
            // The root folder is packed by the last hook.
            "--format=null".to_owned(),
            format!("--include={}", packages.join(",")),
            "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
            "--dpkgopt=path-exclude=/usr/share/man/*".to_owned(),
            "--dpkgopt=path-exclude=/usr/share/doc/*".to_owned(),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright".to_owned(),
            "--dpkgopt=path-exclude=/usr/share/locale/*".to_owned(),
            hook("essential-hook", "prepare"),
            hook("customize-hook", "configure"),
            self.order.suite.clone(),
            "/dev/null".to_owned(),
        ];
        arguments.extend_from_slice(sources);
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            output: "a.qcow2".into(),
            size: 4 << 30,
            suite: "bookworm".into(),
            include: vec!["g++".into(), "libc6:amd64".into()],
            mirror: None,
            hostname: "debian".into(),
            user: "guest".into(),
            password: "it's \"$x\"".into(),
            force: false,
        }
    }

    #[test]
    fn values_that_would_end_up_in_scripts_or_options_are_checked() {
        Recipe::new(&order()).unwrap();
        let wrong = [
            Order { hostname: "a b".into(), ..order() },
            Order { hostname: "-a".into(), ..order() },
            Order { user: "a;reboot".into(), ..order() },
            Order { user: "root".into(), ..order() },
            Order { suite: "--help".into(), ..order() },
            Order { password: "a\nroot:b".into(), ..order() },
            Order { password: String::new(), ..order() },
            Order { include: vec!["-o".into()], ..order() },
            Order { include: vec!["a b".into()], ..order() },
        ];
        for order in wrong {
            assert_eq!(Recipe::new(&order).expect_err(&format!("{order:?}")).exit_code(), 2);
        }
    }
}
