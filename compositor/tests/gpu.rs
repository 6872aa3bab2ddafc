//! A GPU that is lost while windows are open, and windows that let through what is behind them. The GPU is
//! Mesa's software one (lavapipe), whose device is destroyed as a driver does that is started anew.

mod support;

use proto::v1;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use support::guest::{Guest, opaque, pattern, window};
use support::{Compositor, Desktop};
use window_memory::Span;
use x11rb::protocol::xproto::ConnectionExt as _;

/// Size of the guest's windows here.
const WIDTH: u32 = 120;
const HEIGHT: u32 = 80;

/// The description of a software GPU's driver, for the Vulkan loader; `None` where there is none.
fn lavapipe() -> Option<PathBuf> {
    let drivers = std::fs::read_dir("/usr/share/vulkan/icd.d").into_iter().flatten().flatten();
    let mut files = drivers.map(|driver| driver.path());
    let found = files.find(|file| file.to_string_lossy().contains("lvp_icd"));
    if found.is_none() {
        println!("SKIPPED: no software GPU is installed (mesa-vulkan-drivers)");
    }
    found
}

/// A compositor that draws with that GPU and no other, and a pipe of which each byte loses it.
struct OnGpu {
    compositor: Compositor,
    driver: PathBuf,
    losses: File,
}

impl OnGpu {
    fn start(desktop: &Desktop) -> Option<Self> {
        let installed = lavapipe()?;
        let (driver, pipe) =
            (desktop.folder().join("lvp_icd.json"), desktop.folder().join("losses"));
        std::fs::copy(installed, &driver).unwrap();
        desktop.run("mkfifo", &[pipe.to_str().unwrap()]);
        let losses = File::options().read(true).write(true).open(&pipe).unwrap();
        let compositor = Compositor::start_as(desktop, "gpu", "gpu", |command| {
            only(command, &driver).arg("--gpu-losses").arg(&pipe);
        });
        Some(Self { compositor, driver, losses })
    }

    /// Loses the GPU, and has seen it: what it is asked comes after it.
    fn lose(&mut self) {
        self.losses.write_all(b"x").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        self.compositor.status();
    }
}

/// Vulkan with this driver, without OpenGL.
fn only<'a>(
    command: &'a mut std::process::Command,
    driver: &Path,
) -> &'a mut std::process::Command {
    // The loader's older name of it, too.
    command
        .env("VK_DRIVER_FILES", driver)
        .env("VK_ICD_FILENAMES", driver)
        .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere.json")
}

/// A window of the guest that is open.
struct Shown {
    id: u32,
    span: Span,
    pixels: Vec<u8>,
}

impl Shown {
    fn open(guest: &mut Guest, id: u32) -> Self {
        guest.tell(window(id, Self::x(id), 150, WIDTH, HEIGHT));
        guest.configured(id, |_| true);
        let pixels = pattern(WIDTH, HEIGHT, id as u8);
        let span = guest.buffer(WIDTH, HEIGHT, &pixels);
        let present = guest.present(id, &span, WIDTH, HEIGHT);
        guest.show(present);
        Self { id, span, pixels }
    }

    fn x(id: u32) -> i32 {
        200 * i32::try_from(id).unwrap()
    }

    /// Shows something else.
    fn change(&mut self, guest: &mut Guest, seed: u8) {
        self.pixels = pattern(WIDTH, HEIGHT, seed);
        guest.draw(&self.span, WIDTH, HEIGHT, &self.pixels);
        let present = guest.present(self.id, &self.span, WIDTH, HEIGHT);
        guest.show(present);
    }

    /// Waits until it is to be seen, border and all.
    fn seen(&self, desktop: &Desktop, compositor: &mut Compositor) {
        let x = Self::x(self.id);
        desktop.until("the pixels", || {
            (desktop.pixels(x, 150, WIDTH, HEIGHT) == opaque(&self.pixels)).then_some(())
        });
        let (width, _, shot) = compositor.screenshot(Some(self.id));
        let shot: Vec<[u8; 3]> =
            shot.chunks_exact(4).map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
        let height = u32::try_from(shot.len()).unwrap() / width;
        desktop.until("the border", || {
            (desktop.pixels(x - 2, 148, width, height) == shot).then_some(())
        });
    }
}

#[test]
fn when_the_gpu_is_lost_all_windows_are_shown_again() {
    let Some(desktop) = Desktop::new() else { return };
    let Some(mut on_gpu) = OnGpu::start(&desktop) else { return };
    let mut guest = on_gpu.compositor.guest();
    let mut windows = [1, 2, 3].map(|id| Shown::open(&mut guest, id));
    let first = on_gpu.compositor.status().renderer;
    assert!(!first.contains("software ("), "{first}");
    for shown in &windows {
        shown.seen(&desktop, &mut on_gpu.compositor);
    }
    // The same GPU again; the second time the X server draws from then on.
    for (seed, by_gpu) in [(40, true), (50, false)] {
        on_gpu.lose();
        for shown in &windows {
            desktop.spoil(on_gpu.compositor.host(shown.id));
        }
        // One has something to show; the others have only been lost.
        windows[0].change(&mut guest, seed);
        for shown in &windows {
            shown.seen(&desktop, &mut on_gpu.compositor);
        }
        let renderer = on_gpu.compositor.status().renderer;
        assert_eq!(renderer == first, by_gpu, "{renderer} after {first}");
        assert_eq!(renderer.starts_with("software ("), !by_gpu, "{renderer}");
        // It goes on as before.
        windows[1].change(&mut guest, seed + 1);
        windows[1].seen(&desktop, &mut on_gpu.compositor);
    }
    let fourth = Shown::open(&mut guest, 4);
    fourth.seen(&desktop, &mut on_gpu.compositor);
    assert_eq!(on_gpu.compositor.status().windows, 4);
}

#[test]
fn without_a_gpu_to_come_back_the_x_server_draws() {
    let Some(desktop) = Desktop::new() else { return };
    let Some(mut on_gpu) = OnGpu::start(&desktop) else { return };
    let mut guest = on_gpu.compositor.guest();
    let mut windows = [1, 2].map(|id| Shown::open(&mut guest, id));
    assert!(!on_gpu.compositor.status().renderer.contains("software ("));
    // Its driver is taken away.
    std::fs::remove_file(&on_gpu.driver).unwrap();
    on_gpu.lose();
    for shown in &windows {
        desktop.spoil(on_gpu.compositor.host(shown.id));
    }
    windows[0].change(&mut guest, 60);
    for shown in &windows {
        shown.seen(&desktop, &mut on_gpu.compositor);
    }
    assert_eq!(on_gpu.compositor.status().renderer, "software (MIT-SHM)");
}

/// What is seen of the screen through a window with these pixels, premultiplied.
fn through(desktop: &Desktop, compositor: &mut Compositor, pixels: &[u8]) -> Vec<[u8; 3]> {
    let mut guest = compositor.guest();
    let (width, height) = (8, 4);
    guest.tell(v1::Window { alpha: true, ..window(1, 500, 300, width, height) });
    guest.configured(1, |_| true);
    let span = guest.buffer(width, height, pixels);
    let present = guest.present(1, &span, width, height);
    guest.show(present);
    let host = u32::try_from(compositor.host(1)).unwrap();
    assert_eq!(desktop.x.get_geometry(host).unwrap().reply().unwrap().depth, 32);
    // Its first pixel is opaque.
    desktop.until("the window", || {
        (desktop.pixels(500, 300, 1, 1) == opaque(&pixels[..4])).then_some(())
    });
    desktop.pixels(500, 300, width, height)
}

#[test]
fn what_is_behind_a_window_is_seen_through_it_by_every_painter() {
    let Some(desktop) = Desktop::new() else { return };
    if !support::have(&["xcompmgr"]) {
        return;
    }
    let composes = support::Process::of(
        std::process::Command::new("xcompmgr").env("DISPLAY", &desktop.display),
    );
    let behind = [200_u8, 100, 40];
    desktop.backdrop(behind);
    // Opaque, half, black of a quarter, and nothing.
    let four = [[9, 8, 7, 255], [60, 50, 40, 128], [0, 0, 0, 64], [0, 0, 0, 0]];
    let all = || (0..8 * 4).map(|at| four[at % 4]);
    let pixels: Vec<u8> = all().flatten().collect();
    // The operator "over" (Porter and Duff).
    let over = |over: u8, alpha: u8, under: u8| {
        let through = u32::from(under) * u32::from(255 - alpha);
        over + u8::try_from((through + 127) / 255).unwrap()
    };
    let expected: Vec<[u8; 3]> = all()
        .map(|[blue, green, red, alpha]| {
            let [under_blue, under_green, under_red] = behind;
            [
                over(blue, alpha, under_blue),
                over(green, alpha, under_green),
                over(red, alpha, under_red),
            ]
        })
        .collect();
    let close = |one: &[u8; 3], two: &[u8; 3]| {
        one.iter().zip(two).all(|(one, two)| one.abs_diff(*two) <= 1)
    };
    let check = |mut compositor: Compositor, renderer: &str| {
        let seen = through(&desktop, &mut compositor, &pixels);
        let name = compositor.status().renderer;
        assert!(name.contains(renderer), "{name}");
        let same = seen.iter().zip(&expected).all(|(one, two)| close(one, two));
        assert!(same, "{name}: {seen:?} is not {expected:?}");
    };
    check(Compositor::start(&desktop, "software"), "software (MIT-SHM)");
    let vendors = Path::new("/usr/share/glvnd/egl_vendor.d");
    if vendors.exists() {
        let opengl = Compositor::start_as(&desktop, "opengl", "gpu", |command| {
            command.env("VK_DRIVER_FILES", "/nowhere").env("VK_ICD_FILENAMES", "/nowhere");
        });
        check(opengl, "(gl,");
    } else {
        println!("SKIPPED: no OpenGL is installed (libegl-mesa0)");
    }
    // Lavapipe shows nothing of such a window: the X server does.
    if let Some(driver) = lavapipe() {
        let vulkan = Compositor::start_as(&desktop, "vulkan", "gpu", |command| {
            only(command, &driver);
        });
        check(vulkan, "software (MIT-SHM)");
    }
    drop(composes);
}
