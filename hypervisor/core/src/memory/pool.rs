//! The core's frames as values that free themselves.
#![allow(unsafe_code)]

use crate::frames::FramePool;
use crate::sync::Lock;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use units::{HostPhysical, PAGE_SIZE};

static POOL: Lock<Option<FramePool<'static>>> = Lock::new(None);

/// Hands the core its frames. Once, at boot.
pub fn initialize(pool: FramePool<'static>) {
    *POOL.lock() = Some(pool);
}

/// Contiguous frames, mapped one to one, freed when dropped.
pub struct Frames {
    start: HostPhysical,
    count: u64,
}

impl Frames {
    /// `count` frames, all zero. `None` when there are not so many in one piece.
    pub fn allocate(count: u64) -> Option<Self> {
        let start = POOL.lock().as_mut()?.allocate(usize::try_from(count).ok()?)?;
        // SAFETY: the frames are the core's, mapped one to one and nobody else's from now on.
        unsafe { core::ptr::write_bytes(start.0 as *mut u8, 0, (count * PAGE_SIZE) as usize) };
        Some(Self { start, count })
    }

    /// Where they lie, physically and virtually.
    pub const fn physical(&self) -> HostPhysical {
        self.start
    }

    /// Their bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let size = (self.count * PAGE_SIZE) as usize;
        // SAFETY: the frames are this value's alone and mapped one to one.
        unsafe { core::slice::from_raw_parts_mut(self.start.0 as *mut u8, size) }
    }

    /// Gives up the value without freeing the frames.
    pub fn into_raw(self) -> HostPhysical {
        let start = self.start;
        core::mem::forget(self);
        start
    }

    /// The value of frames that were given up.
    ///
    /// # Safety
    /// `start` and `count` are those of a value that went into [`Self::into_raw`], once.
    pub const unsafe fn from_raw(start: HostPhysical, count: u64) -> Self {
        Self { start, count }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if let Some(pool) = POOL.lock().as_mut() {
            let freed = pool.free(self.start, self.count as usize);
            debug_assert!(freed);
        }
    }
}

/// A value in frames of its own: a box whose physical address is known.
pub struct Object<T> {
    frames: Frames,
    _value: PhantomData<T>,
}

impl<T> Object<T> {
    const COUNT: u64 = {
        assert!(align_of::<T>() <= PAGE_SIZE as usize);
        (size_of::<T>() as u64).div_ceil(PAGE_SIZE)
    };

    /// A value of zeros.
    ///
    /// # Safety
    /// All zeros is a value of `T`.
    pub unsafe fn zeroed() -> Option<Self> {
        Some(Self { frames: Frames::allocate(Self::COUNT)?, _value: PhantomData })
    }

    /// This value.
    pub fn new(value: T) -> Option<Self> {
        let frames = Frames::allocate(Self::COUNT)?;
        // SAFETY: the frames are large enough, aligned and nobody else's.
        unsafe { (frames.physical().0 as *mut T).write(value) };
        Some(Self { frames, _value: PhantomData })
    }

    /// Where it lies.
    pub const fn physical(&self) -> HostPhysical {
        self.frames.physical()
    }

    /// Gives up ownership.
    pub fn into_raw(self) -> *mut T {
        let start = self.frames.start;
        core::mem::forget(self);
        start.0 as *mut T
    }

    /// Gives up ownership for good.
    pub fn leak(self) -> &'static mut T {
        // SAFETY: the frames hold a value and nobody frees them any more.
        unsafe { &mut *self.into_raw() }
    }

    /// Takes ownership again.
    ///
    /// # Safety
    /// `value` came from [`Self::into_raw`] and nobody uses it any longer.
    pub unsafe fn from_raw(value: *mut T) -> Self {
        // SAFETY: the caller's promise.
        let frames = unsafe { Frames::from_raw(HostPhysical(value as u64), Self::COUNT) };
        Self { frames, _value: PhantomData }
    }
}

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the frames hold a value, which is this object's.
        unsafe { &*(self.frames.start.0 as *const T) }
    }
}

impl<T> DerefMut for Object<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *(self.frames.start.0 as *mut T) }
    }
}

impl<T> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: the value is not used again; the frames go with their own drop.
        unsafe { core::ptr::drop_in_place(self.frames.start.0 as *mut T) };
    }
}
