//! What a person may write in a definition, and what they are told when they may not.

use definition::{
    Boot, Disk, DiskFormat, EngineChoice, HostFacts, Network, NetworkMode, RateLimit, Share,
    ShareKind, VmDefinition, limits, parse,
};
use proptest::prelude::*;
use std::path::PathBuf;

const WHOLE: &str = r##"
name = "Windows 11"
memory = 4096
cpus = 2
engine = "kvm"
huge-pages = true

[boot]
firmware = "/usr/share/OVMF/OVMF_CODE.fd"

[[disk]]
path = "/vm/win11.qcow2"
format = "qcow2"
limit = { bytes-per-second = 1048576 }

[[disk]]
path = "/vm/install.img"
format = "raw"
read-only = true

[[net]]
mode = "passt"

[[net]]
mode = "tap"
interface = "tap0"
mac = "52:54:00:00:00:01"

[[share]]
tag = "home"
path = "/home/me"
kind = "virtio-fs"
read-only = true

[windows]
seamless = false
memory = 512
colour = "#ff8000"

[display]
height = 1024
"##;

#[test]
fn every_field_a_person_may_write_is_read() {
    let vm = parse(WHOLE).unwrap();
    assert_eq!(vm.engine, EngineChoice::Kvm);
    assert_eq!(vm.disks[0].limit.unwrap().bytes_per_second, 1 << 20);
    assert!(vm.disks[1].read_only);
    assert_eq!(vm.networks[0].mode, NetworkMode::Passt);
    assert_eq!(vm.networks[1].mode, NetworkMode::Tap { interface: "tap0".into() });
    assert_eq!(vm.shares[0].kind, ShareKind::VirtioFs);
    assert!(!vm.windows.seamless);
    assert_eq!(vm.windows.memory, 512);
    assert_eq!(vm.windows.colour.unwrap().to_string(), "#ff8000");
    assert_eq!(vm.display, Some(definition::Display { width: 1280, height: 1024 }));
    assert_eq!(vm.mac_address(1).to_string(), "52:54:00:00:00:01");
    assert_eq!(vm.mac_address(0), vm.mac_address(0));
    assert_ne!(vm.mac_address(0), vm.mac_address(2));
}

/// `text` is refused at `line` and `column` with a message that contains `message`.
fn refused(text: &str, line: usize, column: usize, message: &str) {
    let error = parse(text).expect_err(text);
    assert!(error.message.contains(message), "{error}");
    assert_eq!((error.line, error.column), (line, column), "{error}");
    assert!(error.to_string().contains(&error.source_line));
}

#[test]
fn nonsense_is_refused_at_its_line_and_column() {
    let good = "name = \"a\"\nmemory = 64\ncpus = 1\n";
    parse(good).unwrap();
    let with = |more: &str| format!("{good}{more}");
    refused("name = \"a\"\nmemory = lots\ncpus = 1\n", 2, 10, "");
    refused(&with("[[disk"), 4, 7, "");
    refused(&with("colour = \"red\""), 4, 1, "unknown field `colour`");
    refused("name = \"a\"\ncpus = 1\n", 1, 1, "missing field `memory`");
    refused("name = \"a\"\nmemory = \"64\"\ncpus = 1\n", 2, 10, "expected a whole number");
    refused("name = \"a\"\nmemory = -1\ncpus = 1\n", 2, 10, "");
    refused(&with("engine = \"xen\""), 4, 10, "unknown variant `xen`");
    refused(&with("[[net]]\nmode = \"tap\""), 4, 1, "interface");
    refused(&with("[[net]]\nmode = \"passt\"\nspeed = 3"), 6, 1, "unknown field `speed`");
}

#[test]
fn values_out_of_bounds_are_refused_at_their_place_with_what_is_allowed() {
    let with = |more: &str| format!("name = \"a\"\nmemory = 64\ncpus = 1\n{more}");
    refused("name = \"a/b\"\nmemory = 64\ncpus = 1", 1, 8, "name is \"a/b\"; allowed: 1 to 100");
    refused("name = \"a\"\nmemory = 0\ncpus = 1", 2, 10, "memory is 0; allowed: 16 to");
    refused("name = \"a\"\nmemory = 64\ncpus = 256", 3, 8, "cpus is 256; allowed: 1 to 255");
    refused(&with("[boot]\ninitrd = \"/i\""), 5, 10, "boot.initrd");
    refused(&with("[boot]\nkernel = \"k\""), 5, 10, "absolute path");
    refused(&with("[boot]\nkernel = \"/k\"\nhvt = \"/u\""), 6, 7, "either boot.hvt or boot.kernel");
    let unikernel = "[boot]\nhvt = \"/u\"\nappend = \"a\"\n";
    parse(&with(unikernel)).unwrap();
    let odd = with(unikernel).replace("cpus = 1", "cpus = 2");
    refused(&odd, 3, 8, "cpus is 2; allowed: 1, with boot.hvt");
    let odd = with(unikernel).replace("memory = 64", "memory = 65");
    refused(&odd, 2, 10, "an even number from 16 to 2816 MiB");
    let share = with(unikernel) + "[[share]]\ntag = \"t\"\npath = \"/s\"\n";
    refused(&share, 7, 1, "share is [\"t\"]; allowed: none");
    refused(&with("[display]\nwidth = 199"), 5, 9, "display.width is 199; allowed: 200 to 8192");
    refused(&with("[display]\nheight = 8193"), 5, 10, "display.height is 8193");
    refused(&with("[display]\ndepth = 24"), 5, 1, "unknown field `depth`");
    refused(&(with(unikernel) + "[display]\n"), 7, 1, "allowed: none, with boot.hvt");
    refused(&with("[boot]\nkernel = \"/k\"\nfirmware = \"/f\""), 6, 12, "either");
    let disk = "[[disk]]\npath = \"/d\"\nformat = \"raw\"\n";
    refused(&with(&format!("{disk}{disk}")), 8, 8, "disk[1].path");
    refused(&with("[[net]]\nmode = \"passt\"\nmac = \"01:00:00:00:00:00\""), 6, 7, "net[0].mac");
    refused(&with("[[net]]\nmode = \"tap\"\ninterface = \"a/b\""), 6, 13, "net[0].interface");
    refused(&with("[[share]]\ntag = \"a b\"\npath = \"/\""), 5, 7, "share[0].tag");
    let share = "[[share]]\ntag = \"t\"\npath = \"/\"\n";
    refused(&with(&format!("{share}{share}")), 8, 7, "share[1].tag");
    refused(&with(&share.replace("\"t\"", "\"t\"\nkind=\"nfs\"")), 6, 6, "unknown variant `nfs`");
    for wrong in ["1", "8", "300", "8192"] {
        let windows = format!("[windows]\nmemory = {wrong}");
        refused(&with(&windows), 5, 10, "a power of two from 16 to 4096 MiB");
    }
    parse(&with("[windows]\nmemory = 0")).unwrap();
    refused(&with("[windows]\ncolour = \"red\""), 5, 10, "is no colour");
    let serial = format!("agent = \"serial\"\n{share}");
    parse(&with(&serial)).unwrap();
    parse(&with(&format!("{serial}kind = \"vsock\"\n"))).unwrap();
    refused(&with("agent = \"tcp\""), 4, 9, "unknown variant `tcp`");
    let append = "x".repeat(limits::APPEND + 1);
    refused(&with(&format!("[boot]\nkernel = \"/k\"\nappend = \"{append}\"")), 6, 10, "2047");
    refused(&with(&"[[net]]\nmode = \"passt\"\n".repeat(5)), 4, 1, "net is given 5 times");
}

#[test]
fn the_place_is_right_after_letters_of_several_bytes() {
    refused(
        "name = \"é\" # ü\nmemory = 64\ncpus = 1\n[boot]\nkernel = \"/é\"\nappend = \"é\\t\"",
        6,
        10,
        "append",
    );
    refused("name = \"é\"; x", 1, 11, "");
}

#[test]
fn what_the_host_does_not_have_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    let host = HostFacts { memory: 1024 };
    let mut vm = parse("name = \"a\"\nmemory = 1025\ncpus = 1").unwrap();
    let text = vm.check_host(&host).unwrap_err().to_string();
    assert_eq!(text, "memory is 1025; allowed: 16 to 1024 MiB (what this host has)");
    vm.memory = 1024;
    vm.disks.push(Disk {
        path: image.clone(),
        format: DiskFormat::Raw,
        read_only: false,
        limit: None,
    });
    let text = vm.check_host(&host).unwrap_err().to_string();
    assert!(text.contains("disk[0].path") && text.contains("No such file"), "{text}");
    std::fs::create_dir(&image).unwrap();
    let text = vm.check_host(&host).unwrap_err().to_string();
    assert!(text.contains("it is a folder"), "{text}");
    std::fs::remove_dir(&image).unwrap();
    std::fs::write(&image, "x").unwrap();
    vm.check_host(&host).unwrap();
    vm.shares.push(Share { tag: "t".into(), path: image, kind: ShareKind::Plan9, read_only: true });
    let text = vm.check_host(&host).unwrap_err().to_string();
    assert!(text.contains("share[0].path") && text.contains("it is a file"), "{text}");
    assert!(HostFacts::of_this_host().memory > 64);
}

fn path() -> impl Strategy<Value = PathBuf> {
    "/[^\\pC]{1,40}".prop_map(PathBuf::from)
}

fn boot() -> impl Strategy<Value = Boot> {
    let kernel = (path(), prop::option::of(path()), prop::option::of("[^\\pC]{0,99}")).prop_map(
        |(kernel, initrd, append)| Boot {
            kernel: Some(kernel),
            hvt: None,
            initrd,
            append,
            firmware: None,
        },
    );
    let firmware =
        prop::option::of(path()).prop_map(|firmware| Boot { firmware, ..Boot::default() });
    prop_oneof![kernel, firmware]
}

fn disk() -> impl Strategy<Value = Disk> {
    let limit = (0..=limits::RATE, 0..=limits::RATE).prop_map(|(bytes, operations)| RateLimit {
        bytes_per_second: bytes,
        operations_per_second: operations,
    });
    let format = prop_oneof![Just(DiskFormat::Raw), Just(DiskFormat::Qcow2)];
    (path(), format, any::<bool>(), prop::option::of(limit))
        .prop_map(|(path, format, read_only, limit)| Disk { path, format, read_only, limit })
}

fn network() -> impl Strategy<Value = Network> {
    let mode = prop_oneof![
        Just(NetworkMode::Passt),
        "[a-z][a-z0-9]{0,14}".prop_map(|interface| NetworkMode::Tap { interface }),
    ];
    let mac = prop::option::of("52:54:[0-9a-f]{2}:[0-9A-F]{2}:00:01");
    (mode, mac).prop_map(|(mode, mac)| Network { mode, mac })
}

fn share() -> impl Strategy<Value = Share> {
    let kind = prop_oneof![Just(ShareKind::Plan9), Just(ShareKind::VirtioFs)];
    ("[a-zA-Z0-9_.-]{1,31}", path(), kind, any::<bool>())
        .prop_map(|(tag, path, kind, read_only)| Share { tag, path, kind, read_only })
}

fn definition() -> impl Strategy<Value = VmDefinition> {
    let engine = prop_oneof![
        Just(EngineChoice::Auto),
        Just(EngineChoice::Core),
        Just(EngineChoice::Kvm),
        Just(EngineChoice::Tcg)
    ];
    (
        "[a-zA-Z0-9äß開][a-zA-Z0-9äß開 _.()+,&@#=-]{0,45}[a-z)]",
        limits::MEMORY,
        limits::CPUS,
        engine,
        any::<bool>(),
        boot(),
        prop::collection::vec(disk(), 0..=limits::DISKS),
        prop::collection::vec(network(), 0..=limits::NETWORKS),
        prop::collection::vec(share(), 0..=limits::SHARES),
    )
        .prop_map(|(name, memory, cpus, engine, huge_pages, boot, disks, networks, shares)| {
            VmDefinition {
                name,
                memory,
                cpus,
                engine,
                huge_pages,
                agent: definition::AgentWay::default(),
                boot,
                disks,
                networks,
                shares,
                display: None,
                clipboard: definition::Clipboard::default(),
                integration: definition::Integration::default(),
                windows: definition::Windows::default(),
            }
        })
        .prop_filter("same image or tag twice", |vm| vm.check().is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_allowed_definition_reads_back_as_it_was_written(vm in definition()) {
        prop_assert_eq!(parse(&vm.to_toml().unwrap()).unwrap(), vm);
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_within_it(text in "\\PC{0,80}(\n\\PC{0,20}){0,3}") {
        if let Err(error) = parse(&text) {
            prop_assert!(error.line <= text.matches('\n').count() + 1);
            prop_assert!(error.column <= text.chars().count() + 1);
        }
    }
}
