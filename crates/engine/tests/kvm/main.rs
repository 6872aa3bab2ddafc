//! Engine `kvm` against the real `/dev/kvm`: small pieces of real-mode code, and what comes back.
//! A machine without one says so loudly and proves nothing.

mod exits;
mod interrupts;
mod life;
mod machine;
mod memory;
