//! A VM's definition in QEMU's words: the machine that engine `kvm` builds itself, asked of QEMU.
//! Pure: looks at nothing but its arguments.

use definition::{DiskFormat, RateLimit, ShareKind, VmDefinition};
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the definition does not say: descriptors and files made for this run.
pub(super) struct Wiring {
    /// QEMU's monitor.
    pub(super) monitor: RawFd,
    /// The first serial port.
    pub(super) serial: RawFd,
    /// The debug console at port 0xe9.
    pub(super) debug: RawFd,
    /// `hvc0`.
    pub(super) virtio_console: RawFd,
    /// Where QEMU writes its own trace of processor resets.
    pub(super) trace: RawFd,
    /// File with the agent's token.
    pub(super) agent_token: Option<PathBuf>,
    /// Where QEMU listens for the daemon, at the other end of the guest's serial port for agents.
    pub(super) agent_port: PathBuf,
    /// Where our vsock device is served.
    pub(super) vsock: PathBuf,
    /// One for each network card.
    pub(super) networks: Vec<NetworkEnd>,
    /// One for each disk: the image, then its backing files.
    pub(super) disks: Vec<Vec<Layer>>,
    /// One for each share: virtiofsd's socket, when it has one.
    pub(super) shares: Vec<Option<PathBuf>>,
    /// The file of window memory.
    pub(super) window_memory: Option<RawFd>,
    /// UEFI, when no kernel is given.
    pub(super) flash: Option<Flash>,
    /// The kernel is a Multiboot one.
    pub(super) multiboot: bool,
    /// A reset by the guest ends QEMU.
    pub(super) end_on_reset: bool,
}

/// The other end of a network card.
#[derive(Clone, Copy, Debug)]
pub(super) enum NetworkEnd {
    /// passt's socket.
    Stream(RawFd),
    /// The tap interface.
    Tap(RawFd),
}

/// One file of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) path: PathBuf,
    pub(super) format: DiskFormat,
    /// A block device, not a file.
    pub(super) device: bool,
}

/// The two flash chips of UEFI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flash {
    /// Read-only code.
    pub(super) code: PathBuf,
    /// Variables; none for firmware that keeps none.
    pub(super) variables: Option<PathBuf>,
}

/// QEMU's command line, without the program.
pub(super) fn arguments(vm: &VmDefinition, wiring: &Wiring) -> Vec<OsString> {
    let mut line = Line::default();
    machine(&mut line, vm, wiring);
    channels(&mut line, wiring);
    boot(&mut line, vm, wiring);
    for (index, layers) in wiring.disks.iter().enumerate() {
        let bootable = vm.boot.kernel.is_none();
        disk(&mut line, vm, index, layers, bootable);
    }
    for (index, end) in wiring.networks.iter().enumerate() {
        network(&mut line, vm, index, *end);
    }
    for (index, socket) in wiring.shares.iter().enumerate() {
        share(&mut line, vm, index, socket.as_deref());
    }
    if let Some(descriptor) = wiring.window_memory {
        window_memory(&mut line, vm, descriptor);
    }
    line.0
}

fn machine(line: &mut Line, vm: &VmDefinition, wiring: &Wiring) {
    line.flag("-no-user-config");
    line.flag("-nodefaults");
    line.option("-display", options("none"));
    line.option("-name", options("").with("guest", &vm.name));
    let mut machine = options("q35")
        .with("memory-backend", "ram")
        .with("smm", "off")
        .with("vmport", "off")
        .with("dump-guest-core", "off");
    if let Some(flash) = &wiring.flash {
        machine = machine.with("pflash0", "code");
        if flash.variables.is_some() {
            machine = machine.with("pflash1", "variables");
        }
    }
    line.option("-machine", machine);
    line.option("-accel", options("tcg").with("thread", "multi"));
    line.option("-cpu", options("max"));
    line.option("-smp", options("").with("cpus", vm.cpus.to_string()));
    let megabytes = format!("{}M", vm.memory);
    line.option("-m", options("").with("size", &megabytes));
    // Shared, so that vhost-user back ends reach the guest's memory.
    let mut ram = options("memory-backend-memfd")
        .with("id", "ram")
        .with("size", &megabytes)
        .with("share", "on");
    if vm.huge_pages {
        ram = ram.with("hugetlb", "on");
    }
    line.option("-object", ram);
    line.option("-rtc", options("").with("base", "utc"));
    // No suspend: the life cycle has no such state.
    line.option("-global", options("ICH9-LPC.disable_s3=1"));
    line.option("-global", options("ICH9-LPC.disable_s4=1"));
    // The guest's memory is set up and the devices are there, but no instruction runs yet.
    line.flag("-S");
    if wiring.end_on_reset {
        line.flag("-no-reboot");
    }
    line.option(
        "-sandbox",
        options("on")
            .with("obsolete", "deny")
            .with("elevateprivileges", "deny")
            .with("spawn", "deny")
            .with("resourcecontrol", "deny"),
    );
    // The one trace QEMU has of a triple fault.
    line.option("-d", options("cpu_reset"));
    line.flag("-D");
    line.value(format!("/proc/self/fd/{}", wiring.trace));
}

fn channels(line: &mut Line, wiring: &Wiring) {
    for (id, descriptor) in [
        ("monitor", wiring.monitor),
        ("serial", wiring.serial),
        ("debug", wiring.debug),
        ("hvc", wiring.virtio_console),
    ] {
        line.option("-chardev", socket(id, descriptor));
    }
    line.option("-mon", options("").with("chardev", "monitor").with("mode", "control"));
    line.option("-serial", options("chardev:serial"));
    // Ports of engine kvm's chipset.
    line.option("-device", options("isa-debugcon").with("iobase", "0xe9").with("chardev", "debug"));
    line.option("-device", options("isa-debug-exit").with("iobase", "0xf4").with("iosize", "4"));
    line.option("-device", modern("virtio-serial-pci").with("id", "ports"));
    line.option("-device", options("virtconsole").with("bus", "ports.0").with("chardev", "hvc"));
    // For agents of guests without vsock.
    line.option(
        "-chardev",
        options("socket")
            .with("id", "agent")
            .with("path", &wiring.agent_port)
            .with("server", "on")
            .with("wait", "off"),
    );
    line.option(
        "-device",
        options("virtserialport")
            .with("bus", "ports.0")
            .with("chardev", "agent")
            .with("name", vm_control::AGENT_PORT),
    );
    line.option("-object", options("rng-builtin").with("id", "entropy"));
    line.option("-device", modern("virtio-rng-pci").with("rng", "entropy"));
    line.option(
        "-device",
        modern("virtio-balloon-pci").with("id", "balloon").with("free-page-reporting", "on"),
    );
    if let Some(token) = &wiring.agent_token {
        let name = vm_control::AGENT_TOKEN_FILE;
        line.option("-fw_cfg", options("").with("name", name).with("file", token));
    }
    line.option("-chardev", options("socket").with("id", "vsock").with("path", &wiring.vsock));
    line.option("-device", options("vhost-user-vsock-pci").with("chardev", "vsock"));
}

fn boot(line: &mut Line, vm: &VmDefinition, wiring: &Wiring) {
    if let Some(kernel) = &vm.boot.kernel {
        line.flag("-kernel");
        line.value(kernel);
        if let Some(initrd) = &vm.boot.initrd {
            line.flag("-initrd");
            if wiring.multiboot {
                // A list of modules, separated by commas.
                line.value(escaped(initrd.as_os_str()));
            } else {
                line.value(initrd);
            }
        }
        if let Some(append) = &vm.boot.append {
            line.flag("-append");
            line.value(append);
        }
    }
    if let Some(flash) = &wiring.flash {
        line.option("-blockdev", file("code", &flash.code, true));
        if let Some(variables) = &flash.variables {
            line.option("-blockdev", file("variables", variables, false));
        }
    }
}

/// A file whose bytes are the device's.
fn file(node: &str, path: &Path, read_only: bool) -> Options {
    options("")
        .with("driver", "raw")
        .with("node-name", node)
        .with("read-only", on(read_only))
        .with("file.driver", "file")
        .with("file.filename", path)
}

fn disk(line: &mut Line, vm: &VmDefinition, index: usize, layers: &[Layer], bootable: bool) {
    let disk = &vm.disks[index];
    // From the last backing file to the image itself: a node must be there before it is named.
    for (depth, layer) in layers.iter().enumerate().rev() {
        let read_only = disk.read_only || depth > 0;
        let mut node = options("")
            .with("driver", format_name(layer.format))
            .with("node-name", layer_name(index, depth))
            .with("read-only", on(read_only))
            .with("discard", "unmap")
            .with("file.driver", if layer.device { "host_device" } else { "file" })
            .with("file.filename", &layer.path)
            .with("file.discard", "unmap");
        if layer.format == DiskFormat::Qcow2 {
            // Named, so that QEMU opens what the policy saw and guesses no format. An empty name
            // means none.
            if depth + 1 < layers.len() {
                node = node.with("backing", layer_name(index, depth + 1));
            }
        }
        line.option("-blockdev", node);
    }
    let mut top = layer_name(index, 0);
    if let Some(limit) = disk.limit.filter(|limit| *limit != RateLimit::default()) {
        line.option(
            "-object",
            options("throttle-group")
                .with("id", format!("limit{index}"))
                .with("x-bps-total", limit.bytes_per_second.to_string())
                .with("x-iops-total", limit.operations_per_second.to_string()),
        );
        let throttled = format!("throttled{index}");
        line.option(
            "-blockdev",
            options("")
                .with("driver", "throttle")
                .with("node-name", &throttled)
                .with("throttle-group", format!("limit{index}"))
                .with("file", &top),
        );
        top = throttled;
    }
    let mut device =
        modern("virtio-blk-pci").with("id", format!("block{index}")).with("drive", &top);
    if bootable {
        device = device.with("bootindex", index.to_string());
    }
    line.option("-device", device);
}

fn layer_name(disk: usize, depth: usize) -> String {
    format!("disk{disk}-{depth}")
}

fn format_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    }
}

fn network(line: &mut Line, vm: &VmDefinition, index: usize, end: NetworkEnd) {
    let id = format!("net{index}");
    let backend = match end {
        NetworkEnd::Tap(descriptor) => {
            options("tap").with("id", &id).with("fd", descriptor.to_string())
        }
        NetworkEnd::Stream(descriptor) => options("stream")
            .with("id", &id)
            .with("server", "off")
            .with("addr.type", "fd")
            .with("addr.str", descriptor.to_string()),
    };
    line.option("-netdev", backend);
    line.option(
        "-device",
        modern("virtio-net-pci")
            .with("netdev", &id)
            .with("mac", vm.mac_address(index).to_string())
            // No network boot: it would run a program of QEMU's in the guest.
            .with("romfile", ""),
    );
}

fn share(line: &mut Line, vm: &VmDefinition, index: usize, socket: Option<&Path>) {
    let share = &vm.shares[index];
    let id = format!("share{index}");
    match (share.kind, socket) {
        (ShareKind::Plan9, _) => {
            line.option(
                "-fsdev",
                options("local")
                    .with("id", &id)
                    .with("path", &share.path)
                    // The server acts as the user who runs the VM, as crate p9 does.
                    .with("security_model", "none")
                    .with("multidevs", "remap")
                    .with("readonly", on(share.read_only)),
            );
            line.option(
                "-device",
                modern("virtio-9p-pci").with("fsdev", &id).with("mount_tag", &share.tag),
            );
        }
        (ShareKind::VirtioFs, Some(path)) => {
            line.option("-chardev", options("socket").with("id", &id).with("path", path));
            line.option(
                "-device",
                options("vhost-user-fs-pci").with("chardev", &id).with("tag", &share.tag),
            );
        }
        (ShareKind::VirtioFs, None) | (ShareKind::Vsock, _) => {}
    }
}

/// A file of ours, so that QEMU and the compositor map the same pages.
fn window_memory(line: &mut Line, vm: &VmDefinition, descriptor: RawFd) {
    line.option(
        "-object",
        options("memory-backend-file")
            .with("id", "windows")
            .with("size", format!("{}M", vm.windows.memory))
            .with("mem-path", format!("/proc/self/fd/{descriptor}"))
            .with("share", "on"),
    );
    line.option("-device", options("ivshmem-plain").with("memdev", "windows"));
}

fn socket(id: &str, descriptor: RawFd) -> Options {
    options("socket").with("id", id).with("fd", descriptor.to_string())
}

/// A virtio device without the interface from before virtio 1.0, as ours are.
fn modern(device: &str) -> Options {
    options(device).with("disable-legacy", "on")
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }
    fn value(&mut self, value: impl Into<OsString>) {
        self.0.push(value.into());
    }
    fn option(&mut self, name: &str, options: Options) {
        self.flag(name);
        self.value(options.0);
    }
}

/// One argument of the shape `first,key=value,key=value`.
struct Options(OsString);

fn options(first: &str) -> Options {
    Options(first.into())
}

impl Options {
    fn with(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        if !self.0.is_empty() {
            self.0.push(",");
        }
        self.0.push(key);
        self.0.push("=");
        self.0.push(escaped(value.as_ref()));
        self
    }
}

/// A comma in a value is written twice.
fn escaped(value: &OsStr) -> OsString {
    let mut bytes = Vec::with_capacity(value.len());
    for byte in value.as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wiring() -> Wiring {
        Wiring {
            monitor: 3,
            serial: 4,
            debug: 5,
            virtio_console: 6,
            trace: 7,
            agent_token: None,
            agent_port: "/run/vm,1/agent.sock".into(),
            vsock: "/run/vsock-device.sock".into(),
            networks: vec![],
            disks: vec![],
            shares: vec![],
            window_memory: None,
            flash: None,
            multiboot: false,
            end_on_reset: false,
        }
    }

    fn definition(text: &str) -> VmDefinition {
        let head = "name = \"a, b\"\nmemory = 512\ncpus = 2\n";
        definition::parse(&format!("{head}{text}")).unwrap()
    }

    fn line(text: &str, wiring: &Wiring) -> String {
        let words = arguments(&definition(text), wiring);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn size_and_name_come_from_the_definition() {
        let line = line("", &wiring());
        assert!(line.contains("-name guest=a,, b "), "{line}");
        assert!(line.contains("-m size=512M"));
        assert!(line.contains("size=512M,share=on"));
        assert!(line.contains("-smp cpus=2"));
        assert!(!line.contains("hugetlb"));
        assert!(!line.contains("-no-reboot"));
    }

    #[test]
    fn agents_have_a_serial_port() {
        let line = line("", &wiring());
        let chardev = "-chardev socket,id=agent,path=/run/vm,,1/agent.sock,server=on,wait=off";
        assert!(line.contains(chardev), "{line}");
        let device = "virtserialport,bus=ports.0,chardev=agent,name=org.macrohard.agent";
        assert!(line.contains(device), "{line}");
    }

    #[test]
    fn a_kernel_brings_its_initrd_and_command_line() {
        let text = "[boot]\nkernel = \"/k,1\"\ninitrd = \"/i,1\"\nappend = \"a=b,c\"\n";
        let line_linux = line(text, &wiring());
        assert!(line_linux.contains("-kernel /k,1 -initrd /i,1 -append a=b,c"), "{line_linux}");
        let multiboot = Wiring { multiboot: true, ..wiring() };
        assert!(line(text, &multiboot).contains("-initrd /i,,1"));
    }

    #[test]
    fn a_chain_of_images_is_named_layer_by_layer() {
        let layer = |path: &str, format| Layer { path: path.into(), format, device: false };
        let wiring = Wiring {
            disks: vec![vec![
                layer("/d/top,1.qcow2", DiskFormat::Qcow2),
                layer("/d/base.img", DiskFormat::Raw),
            ]],
            ..wiring()
        };
        let text = "[[disk]]\npath = \"/d/top,1.qcow2\"\nformat = \"qcow2\"\n";
        let line = line(text, &wiring);
        let base = line.find("node-name=disk0-1,read-only=on").expect("base");
        let top = line.find("node-name=disk0-0,read-only=off").expect("top");
        assert!(base < top, "{line}");
        assert!(line.contains("file.filename=/d/top,,1.qcow2"));
        assert!(line.contains("backing=disk0-1"));
        assert!(line.contains("drive=disk0-0,bootindex=0"));
    }

    #[test]
    fn a_limited_disk_goes_through_its_throttle() {
        let wiring = Wiring {
            disks: vec![vec![Layer {
                path: "/dev/sdx".into(),
                format: DiskFormat::Raw,
                device: true,
            }]],
            ..wiring()
        };
        let text = "[[disk]]\npath = \"/dev/sdx\"\nformat = \"raw\"\nread-only = true\n\
                    limit = { bytes-per-second = 1000 }\n";
        let line = line(text, &wiring);
        assert!(line.contains("x-bps-total=1000,x-iops-total=0"), "{line}");
        assert!(line.contains("file=disk0-0"));
        assert!(line.contains("drive=throttled0"));
        assert!(line.contains("file.driver=host_device"));
        assert!(line.contains("node-name=disk0-0,read-only=on"));
    }

    #[test]
    fn cards_and_shares_have_their_other_ends() {
        let wiring = Wiring {
            networks: vec![NetworkEnd::Stream(9), NetworkEnd::Tap(10)],
            shares: vec![None, Some("/run/fs.sock".into())],
            ..wiring()
        };
        let text = "[[net]]\nmode = \"passt\"\nmac = \"52:54:00:00:00:01\"\n\
                    [[net]]\nmode = \"tap\"\ninterface = \"tap0\"\n\
                    [[share]]\ntag = \"a\"\npath = \"/srv/x,y\"\nread-only = true\n\
                    [[share]]\ntag = \"b\"\npath = \"/srv\"\nkind = \"virtio-fs\"\n";
        let line = line(text, &wiring);
        assert!(line.contains("addr.type=fd,addr.str=9"), "{line}");
        assert!(line.contains("mac=52:54:00:00:00:01"));
        assert!(line.contains("tap,id=net1,fd=10"));
        assert!(line.contains("path=/srv/x,,y,security_model=none,multidevs=remap,readonly=on"));
        assert!(line.contains("vhost-user-fs-pci,chardev=share1,tag=b"));
    }

    #[test]
    fn window_memory_is_a_file_of_ours() {
        let wiring = Wiring { window_memory: Some(11), ..wiring() };
        let line = line("[windows]\nmemory = 64\n", &wiring);
        let object = "memory-backend-file,id=windows,size=64M,mem-path=/proc/self/fd/11,share=on";
        assert!(line.contains(object), "{line}");
        assert!(line.contains("-device ivshmem-plain,memdev=windows"), "{line}");
    }

    #[test]
    fn uefi_has_two_chips() {
        let wiring = Wiring {
            flash: Some(Flash { code: "/code.fd".into(), variables: Some("/vars.fd".into()) }),
            end_on_reset: true,
            ..wiring()
        };
        let line = line("", &wiring);
        assert!(line.contains("pflash0=code,pflash1=variables"), "{line}");
        assert!(line.contains("node-name=code,read-only=on"));
        assert!(line.contains("node-name=variables,read-only=off"));
        assert!(line.contains("-no-reboot"));
    }
}
