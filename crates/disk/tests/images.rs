//! Images as a user has them: made here or by `qemu-img`, opened, written, checked by `qemu-img`.

use disk::{
    BackingPolicy, CreateOptions, DiskError, Format, Image, OpenOptions, Wait, create, information,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn made(folder: &TempDir, name: &str, format: Format, size: u64) -> PathBuf {
    let path = folder.path().join(name);
    create(&path, &CreateOptions { format, size, backing: None }).unwrap();
    path
}

fn open(path: &Path, format: Format) -> Result<Image, DiskError> {
    OpenOptions::new(format).open(path)
}

fn read(image: &Image, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    image.read(&mut bytes.as_mut_slice(), offset, Wait::Yes).unwrap();
    bytes
}

fn write(image: &Image, offset: u64, bytes: &[u8]) {
    image.write(&mut &bytes[..], offset).unwrap();
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|n| seed.wrapping_add((n % 253) as u8)).collect()
}

/// Runs `qemu-img`; `None`, loudly, where it is not installed.
fn qemu_img(arguments: &[&str]) -> Option<String> {
    match Command::new("qemu-img").args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
            Some(text)
        }
        Err(error) => {
            eprintln!("SKIPPED: qemu-img: {error}");
            None
        }
    }
}

#[test]
fn what_is_written_is_read_again_after_reopening() {
    let folder = folder();
    for format in [Format::Raw, Format::Qcow2] {
        let path = made(&folder, &format.to_string(), format, 64 * MIB);
        let (small, large) = (pattern(1, 512), pattern(2, 3 * MIB as usize));
        {
            let image = open(&path, format).unwrap();
            assert_eq!(image.size(), 64 * MIB);
            write(&image, 512, &small);
            write(&image, 10 * MIB - 1024, &large);
            image.flush().unwrap();
        }
        let image = open(&path, format).unwrap();
        assert_eq!(read(&image, 512, 512), small);
        assert_eq!(read(&image, 10 * MIB - 1024, large.len()), large);
        assert!(read(&image, 40 * MIB, 4096).iter().all(|byte| *byte == 0));
    }
}

#[test]
fn qemu_agrees_about_every_byte_of_a_qcow2() {
    let folder = folder();
    let path = made(&folder, "disk.qcow2", Format::Qcow2, 32 * MIB);
    let flat = folder.path().join("disk.raw");
    let mut expected = vec![0; 32 * MIB as usize];
    {
        let image = open(&path, Format::Qcow2).unwrap();
        for n in 0..40_u64 {
            let at = (n * 7_777_777) % (31 * MIB) / 512 * 512;
            let bytes = pattern(n as u8, 512 * (1 + n as usize * 3));
            write(&image, at, &bytes);
            expected[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        }
        image.write_zeroes(5 * MIB + 512, 100_352, true).unwrap();
        expected[5 * MIB as usize + 512..][..100_352].fill(0);
        image.write_zeroes(9 * MIB, 3072, false).unwrap();
        expected[9 * MIB as usize..][..3072].fill(0);
        image.flush().unwrap();
    }
    let image = open(&path, Format::Qcow2).unwrap();
    assert!(read(&image, 0, 32 * MIB as usize) == expected);
    drop(image);
    let name = path.to_str().unwrap();
    let Some(report) = qemu_img(&["check", name]) else {
        return;
    };
    assert!(report.contains("No errors"), "{report}");
    qemu_img(&["convert", "-O", "raw", name, flat.to_str().unwrap()]);
    assert!(std::fs::read(&flat).unwrap() == expected);
}

#[test]
fn discarding_gives_space_back() {
    let folder = folder();
    for format in [Format::Raw, Format::Qcow2] {
        let path = made(&folder, &format.to_string(), format, 16 * MIB);
        let image = open(&path, format).unwrap();
        write(&image, 0, &pattern(3, 8 * MIB as usize));
        image.flush().unwrap();
        let before = information(&path, format).unwrap().allocated;
        image.discard(MIB, 6 * MIB).unwrap();
        image.flush().unwrap();
        let after = information(&path, format).unwrap().allocated;
        assert!(after + 5 * MIB < before, "{format}: {before} bytes, then {after}");
        assert_eq!(read(&image, 0, 4096), pattern(3, 4096));
    }
}

#[test]
fn nothing_happens_past_the_end_or_on_a_read_only_disk() {
    let folder = folder();
    for format in [Format::Raw, Format::Qcow2] {
        let path = made(&folder, &format.to_string(), format, MIB);
        let image = open(&path, format).unwrap();
        let bytes = pattern(4, 1024);
        for offset in [MIB - 512, MIB, u64::MAX - 100] {
            assert!(image.write(&mut &bytes[..], offset).is_err());
            assert!(image.read(&mut vec![0; 1024].as_mut_slice(), offset, Wait::Yes).is_err());
            assert!(image.discard(offset, 1024).is_err());
            assert!(image.write_zeroes(offset, 1024, true).is_err());
        }
        drop(image);
        let options = OpenOptions { read_only: true, ..OpenOptions::new(format) };
        let image = options.open(&path).unwrap();
        assert!(image.write(&mut &bytes[..], 0).is_err());
        assert!(image.discard(0, 1024).is_err());
        assert!(image.write_zeroes(0, 1024, false).is_err());
        assert_eq!(image.size(), MIB);
        assert!(image.flush().is_ok());
    }
}

#[test]
fn a_read_that_may_not_wait_gives_the_data_or_says_so() {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok();
    if in_memory.is_none() {
        eprintln!("SKIPPED: /dev/shm: no filesystem in memory");
    }
    for (folder, may_refuse) in [(Some(folder()), true), (in_memory, false)] {
        let Some(folder) = folder else { continue };
        for format in [Format::Raw, Format::Qcow2] {
            let path = made(&folder, &format.to_string(), format, MIB);
            let image = open(&path, format).unwrap();
            let bytes = pattern(7, 8192);
            write(&image, 4096, &bytes);
            let mut found = vec![0; 8192];
            match image.read(&mut found.as_mut_slice(), 4096, Wait::No) {
                Ok(()) => assert!(found == bytes),
                Err(error) => {
                    assert!(may_refuse && error.kind() == std::io::ErrorKind::WouldBlock);
                }
            }
        }
    }
}

#[test]
fn an_odd_raw_file_is_completed_to_a_sector() {
    let folder = folder();
    let path = folder.path().join("odd");
    std::fs::write(&path, [7; 1000]).unwrap();
    let image = open(&path, Format::Raw).unwrap();
    assert_eq!(image.size(), 1024);
    let bytes = read(&image, 512, 512);
    assert_eq!((bytes[487], bytes[488]), (7, 0));
    image.write_zeroes(512, 512, true).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1000);
    write(&image, 512, &[9; 512]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1024);
}

#[test]
fn a_second_writer_is_told_who_has_the_disk() {
    let folder = folder();
    let path = made(&folder, "disk", Format::Raw, MIB);
    let image = open(&path, Format::Raw).unwrap();
    let error = open(&path, Format::Raw).unwrap_err().to_string();
    let me = format!("(process {})", std::process::id());
    assert!(error.contains("locked by") && error.contains(&me), "{error}");
    assert!(information(&path, Format::Raw).is_ok());
    drop(image);
    let readers = OpenOptions { read_only: true, ..OpenOptions::new(Format::Raw) };
    let (_one, _two) = (readers.open(&path).unwrap(), readers.open(&path).unwrap());
    assert!(matches!(open(&path, Format::Raw), Err(DiskError::Locked { .. })));
}

#[test]
fn qemu_respects_our_lock() {
    let folder = folder();
    let path = made(&folder, "disk", Format::Raw, MIB);
    if qemu_img(&["--version"]).is_none() {
        return;
    }
    let _image = open(&path, Format::Raw).unwrap();
    let output = Command::new("qemu-img")
        .args(["bench", "-w", "-c", "1", "-f", "raw", path.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("lock"), "{text}");
}

#[test]
fn a_backing_file_beside_the_image_is_read_and_never_written() {
    let folder = folder();
    let base = made(&folder, "base.qcow2", Format::Qcow2, 4 * MIB);
    {
        let image = open(&base, Format::Qcow2).unwrap();
        write(&image, 0, &pattern(5, 200_000));
    }
    let before = std::fs::read(&base).unwrap();
    let top = folder.path().join("top.qcow2");
    let backing = Some((PathBuf::from("base.qcow2"), Format::Qcow2));
    create(&top, &CreateOptions { format: Format::Qcow2, size: 0, backing }).unwrap();
    let image = open(&top, Format::Qcow2).unwrap();
    assert_eq!(image.size(), 4 * MIB);
    assert_eq!(image.files().len(), 2);
    write(&image, 65_536 + 512, &[1; 512]);
    let mut expected = pattern(5, 200_000);
    expected[65_536 + 512..65_536 + 1024].fill(1);
    assert_eq!(read(&image, 0, 199_680), expected[..199_680]);
    image.discard(0, 4 * MIB).unwrap();
    drop(image);
    assert_eq!(std::fs::read(&base).unwrap(), before);
}

#[test]
fn a_backing_file_elsewhere_needs_the_users_word() {
    let (here, elsewhere) = (folder(), folder());
    let secret = elsewhere.path().join("secret");
    std::fs::write(&secret, vec![0x5e; MIB as usize]).unwrap();
    let secret = secret.canonicalize().unwrap();
    std::os::unix::fs::symlink(&secret, here.path().join("link")).unwrap();
    for (name, file) in [("absolute", secret.to_str().unwrap()), ("linked", "link")] {
        let path = here.path().join(name);
        let backing = Some((PathBuf::from(file), Format::Raw));
        // Making one is the user's own act and needs only that the file is there.
        create(&path, &CreateOptions { format: Format::Qcow2, size: 0, backing }).unwrap();
        let error = open(&path, Format::Qcow2).unwrap_err();
        assert!(matches!(&error, DiskError::BackingOutside { backing, .. } if *backing == secret));
        let allowing = |place: &Path| {
            let backing = BackingPolicy { allow: vec![place.to_owned()] };
            OpenOptions { backing, ..OpenOptions::new(Format::Qcow2) }.open(&path)
        };
        assert_eq!(read(&allowing(&secret).unwrap(), 0, 512), vec![0x5e; 512]);
        assert!(allowing(elsewhere.path()).is_ok());
        assert!(allowing(&elsewhere.path().join("sec")).is_err());
    }
}

#[test]
fn a_chain_that_loops_ends() {
    let folder = folder();
    let path = made(&folder, "loop.qcow2", Format::Qcow2, MIB);
    let Some(_) = qemu_img(&[
        "rebase",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "loop.qcow2",
        path.to_str().unwrap(),
    ]) else {
        return;
    };
    // Writing: the second opener of the same file meets the lock of the first.
    assert!(matches!(open(&path, Format::Qcow2), Err(DiskError::Locked { .. })));
    let reading = OpenOptions { read_only: true, ..OpenOptions::new(Format::Qcow2) };
    let error = reading.open(&path).unwrap_err().to_string();
    assert!(error.contains("more than 64 layers"), "{error}");
}

#[test]
fn broken_images_are_refused_with_the_fact() {
    let folder = folder();
    let path = made(&folder, "disk.qcow2", Format::Qcow2, 64 * MIB);
    {
        let image = open(&path, Format::Qcow2).unwrap();
        write(&image, 0, &pattern(6, 65_536));
    }
    let good = std::fs::read(&path).unwrap();
    let l1 = u64::from_be_bytes(good[40..48].try_into().unwrap()) as usize;
    let cases: &[(&str, usize, &[u8], &str)] = &[
        ("magic", 0, b"KVM\xfb", "starts with 0x4b564dfb"),
        ("version", 7, &[9], "version 9"),
        ("clusters", 23, &[40], "clusters of 2^40"),
        ("size", 24, &[0x7f], "its L1 table has 8192 entries"),
        ("table size", 36, &[0x7f], "its L1 table has 17045716992 bytes"),
        ("table place", 40, &[0x10], "ends behind the file's end"),
        ("odd table", 47, &[8], "does not begin on a cluster"),
        ("refcounts", 48, &[0x10], "refcount table"),
        ("encryption", 35, &[2], "encryption is not supported"),
        ("snapshots", 63, &[1], "1 internal snapshots"),
        ("marked", 79, &[2], "marked corrupt"),
        ("dirty", 79, &[1], "not closed properly"),
        ("data file", 79, &[4], "external data file"),
        ("feature", 74, &[1], "incompatible feature set 0x10000000000"),
        ("entry", l1, &[0x80, 0xff], "entry 0 of its L1 table"),
    ];
    for (name, at, bytes, fact) in cases {
        let mut bad = good.clone();
        bad[*at..*at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, &bad).unwrap();
        let error = open(&path, Format::Qcow2).unwrap_err().to_string();
        assert!(error.contains(fact), "{name}: {error}");
    }
    std::fs::write(&path, &good[..100]).unwrap();
    assert!(matches!(open(&path, Format::Qcow2), Err(DiskError::Corrupt { .. })));
    std::fs::write(&path, []).unwrap();
    assert!(matches!(open(&path, Format::Qcow2), Err(DiskError::Corrupt { .. })));
}

#[test]
fn random_damage_never_panics() {
    let folder = folder();
    let path = made(&folder, "disk.qcow2", Format::Qcow2, 64 * MIB);
    {
        let image = open(&path, Format::Qcow2).unwrap();
        for n in 0..20 {
            write(&image, n * 3 * MIB, &pattern(n as u8, 4096));
        }
    }
    let good = std::fs::read(&path).unwrap();
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..150 {
        let mut bad = good.clone();
        for _ in 0..1 + random(4) {
            // Metadata are in the first clusters: header, refcounts, L1, L2.
            let at = if random(2) == 0 { random(112) } else { random(65_536 * 6) };
            bad[at] = random(256) as u8;
        }
        std::fs::write(&path, &bad).unwrap();
        if let Ok(image) = open(&path, Format::Qcow2) {
            let mut bytes = vec![0; 4096];
            for n in 0..20 {
                // Errors are fine, panics and hangs are not.
                let offset = n * 3 * MIB;
                let _ = image.read(&mut bytes.as_mut_slice(), offset, Wait::Yes);
                let _ = image.write(&mut bytes.as_slice(), offset + 8192);
            }
            let _ = image.discard(0, 8 * MIB);
            let _ = image.flush();
        }
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    let folder = folder();
    let missing = folder.path().join("missing");
    let error = open(&missing, Format::Raw).unwrap_err().to_string();
    assert!(error.contains("missing: cannot open for writing: No such file"), "{error}");
    assert!(open(folder.path(), Format::Raw).is_err());
    let read_only = OpenOptions { read_only: true, ..OpenOptions::new(Format::Raw) };
    assert!(matches!(read_only.open(folder.path()), Err(DiskError::Kind { kind: "a folder", .. })));
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(matches!(read_only.open(&fifo), Err(DiskError::Kind { .. })));
}

#[test]
fn making_an_image_leaves_nothing_half_made() {
    let folder = folder();
    let path = folder.path().join("disk");
    for (format, size) in [(Format::Raw, 0), (Format::Raw, 1000), (Format::Qcow2, u64::MAX)] {
        let options = CreateOptions { format, size, backing: None };
        assert!(matches!(create(&path, &options), Err(DiskError::Size { .. })));
        assert!(!path.exists());
    }
    std::fs::write(&path, "mine").unwrap();
    let options = CreateOptions { format: Format::Raw, size: MIB, backing: None };
    assert!(matches!(create(&path, &options), Err(DiskError::Io { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn compressed_clusters_are_read() {
    let folder = folder();
    let flat = folder.path().join("flat");
    let path = folder.path().join("packed.qcow2");
    let bytes = pattern(8, MIB as usize);
    std::fs::write(&flat, &bytes).unwrap();
    let (from, to) = (flat.to_str().unwrap(), path.to_str().unwrap());
    if qemu_img(&["convert", "-c", "-O", "qcow2", from, to]).is_none() {
        return;
    }
    let image = open(&path, Format::Qcow2).unwrap();
    assert!(read(&image, 0, MIB as usize) == bytes);
    assert_eq!(read(&image, 100 * 512, 512), bytes[100 * 512..101 * 512]);
    write(&image, 512, &[1; 512]);
    assert_eq!(read(&image, 0, 1536)[1024..], bytes[1024..1536]);
}

/// A loop device over a file of a MiB, detached with the value.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(file: &Path) -> Option<Self> {
        std::fs::write(file, vec![0x11; MIB as usize]).unwrap();
        let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(name.trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let folder = folder();
    let Some(device) = LoopDevice::new(&folder.path().join("file")) else {
        eprintln!("SKIPPED: no loop device can be made (needs root and the loop module)");
        return;
    };
    let image = open(&device.0, Format::Raw).unwrap();
    assert_eq!(image.size(), MIB);
    write(&image, 512, &pattern(1, 1024));
    image.write_zeroes(8192, 4096, false).unwrap();
    image.write_zeroes(16_384, 512, true).unwrap();
    image.discard(65_536, 65_536).unwrap();
    image.flush().unwrap();
    assert_eq!(read(&image, 512, 1024), pattern(1, 1024));
    assert_eq!(read(&image, 8192, 4096), [0; 4096]);
    assert_eq!(read(&image, 16_384, 1024), [[0; 512], [0x11; 512]].concat());
    assert!(image.write(&mut &[0; 512][..], MIB).is_err());
    assert!(open(&device.0, Format::Raw).is_err(), "locked");
}
