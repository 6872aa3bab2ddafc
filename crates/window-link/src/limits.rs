//! The numbers of the protocol, once for both sides. Where Qubes has a number that its users live with,
//! it is taken (window size and count, share of a monitor that a window without a frame may cover).

/// Most bytes of one message, without its length.
pub const MESSAGE: usize = 1 << 20;
/// Most windows of one guest at once.
pub const WINDOWS: usize = 500;
/// Most pixels of a window or buffer in one direction.
pub const SIDE: u32 = 16_384;
/// Most pixels of a buffer.
pub const AREA: u64 = 64 << 20;
/// Coordinates lie from `-COORDINATE` to `COORDINATE - 1`.
pub const COORDINATE: i32 = 32_768;
/// Most bytes of a title; a longer one is cut.
pub const TITLE: usize = 512;
/// Most bytes of each half of WM_CLASS; a longer one is cut.
pub const CLASS: usize = 64;
/// Most bytes of an application's id.
pub const APPLICATION: usize = 255;
/// Most rectangles of a window's shape.
pub const SHAPE: usize = 256;
/// Most rectangles of one present's damage.
pub const DAMAGE: usize = 64;
/// Most pixels of an icon in one direction.
pub const ICON: u32 = 256;
/// Most pixels of a cursor in one direction.
pub const CURSOR: u32 = 128;
/// Most bytes of a cursor's name.
pub const CURSOR_NAME: usize = 64;
/// Most pixels of a shadow on one side of a window.
pub const SHADOW: u32 = 1024;
/// Most monitors.
pub const MONITORS: usize = 16;
/// Least opacity of a window, in 65535ths (three quarters): the host's border goes with it and has to be seen.
pub const OPACITY: u16 = 49_152;
/// Largest key code (linux/input-event-codes.h; X has 8 to 255 and counts from 8).
pub const KEY: u32 = 247;
/// Percent of a monitor that a window without the window manager's frame may cover.
pub const OVERRIDE_COVER: u64 = 90;
/// Bytes to which a buffer's offset in window memory is aligned.
pub const ALIGNMENT: u64 = 64;
