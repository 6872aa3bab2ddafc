//! The real QEMU as front-end: its firmware boots from a disk that this process serves.

use disk::{CreateOptions, Format, OpenOptions, create};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use virtio::block::{Block, BlockOptions, RateLimit};
use virtio::vhost_user::Server;

/// A boot sector that writes itself to the next sector through the firmware and ends QEMU by its
/// debug exit port: 0x21 when the firmware says that went well, 0x10 when not.
const BOOT: &[u8] = &[
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xc0, // mov es, ax
    0xbb, 0x00, 0x7c, // mov bx, 0x7c00
    0xb8, 0x01, 0x03, // mov ax, 0x0301: write one sector
    0xb9, 0x02, 0x00, // mov cx, 2: cylinder 0, second sector
    0xb6, 0x00, // mov dh, 0: head 0, drive as given in dl
    0xcd, 0x13, // int 0x13
    0xb0, 0x10, // mov al, 0x10
    0x72, 0x02, // jc over the next instruction
    0xb0, 0x21, // mov al, 0x21
    0xba, 0xf4, 0x00, // mov dx, 0xf4
    0xee, // out dx, al
    0xf4, // hlt
    0xeb, 0xfd, // jmp to hlt
];

#[test]
fn qemus_firmware_boots_from_our_disk_and_writes_to_it() {
    for format in [Format::Raw, Format::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let (path, socket) = (folder.path().join("disk"), folder.path().join("socket"));
        create(&path, &CreateOptions { format, size: 16 << 20, backing: None }).unwrap();
        let image = Arc::new(OpenOptions::new(format).open(&path).unwrap());
        let mut sector = [0; 512];
        sector[..BOOT.len()].copy_from_slice(BOOT);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        image.write(&mut &sector[..], 0).unwrap();
        let (name, serial) = ("block0".to_owned(), "boot".to_owned());
        let limit = RateLimit::default();
        let block =
            Block::new(BlockOptions { name, image: image.clone(), serial, queues: 2, limit });
        let server = Server::start(Box::new(block), UnixListener::bind(&socket).unwrap()).unwrap();

        let started = Command::new("timeout")
            .args(["120", "qemu-system-x86_64", "-machine", "q35,accel=tcg,memory-backend=ram"])
            .args(["-object", "memory-backend-memfd,id=ram,size=64M,share=on"])
            .args(["-m", "64", "-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-chardev")
            .arg(format!("socket,id=disk,path={}", socket.display()))
            .args(["-device", "vhost-user-blk-pci,chardev=disk,num-queues=2,bootindex=0"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .stdin(Stdio::null())
            .output();
        let output = match started {
            Ok(output) if output.status.code() == Some(127) => {
                eprintln!("SKIPPED: qemu-system-x86_64 is not installed");
                return;
            }
            Ok(output) => output,
            Err(error) => {
                eprintln!("SKIPPED: no timeout command: {error}");
                return;
            }
        };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0x21 << 1 | 1), "{format}: {text}");
        server.with_device(|device| {
            assert!(device.counters().contains(&("bytes-written", 512)), "{:?}", device.counters());
        });
        drop(server);
        let mut written = [0; 512];
        image.read(&mut &mut written[..], 512, disk::Wait::Yes).unwrap();
        assert_eq!(written, sector);
        if format == Format::Raw {
            let file = std::fs::File::open(&path).unwrap();
            file.read_exact_at(&mut written, 512).unwrap();
            assert_eq!(written, sector);
        }
    }
}
