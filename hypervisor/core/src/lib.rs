//! The privileged core: partitions, virtual CPUs, memory and interrupts on Intel VMX and AMD SVM.
//! It virtualizes and isolates; devices, files, networks and scheduling are root's.
//!
//! A library so that everything that is logic is tested on the host; `main.rs` makes it a bootable
//! image. `unsafe` lives in the modules that name it in their first comment and nowhere else.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod apic;
pub mod cpu;
pub mod cpuid;
pub mod decode;
pub mod event;
pub mod exit;
pub mod frames;
pub mod hypercall;
pub mod instruction;
pub mod integrity;
pub mod log;
pub mod machine;
pub mod memory;
pub mod memory_type;
pub mod msr;
pub mod ownership;
pub mod partition;
pub mod processor;
pub mod registers;
pub mod root;
pub mod second_level;
pub mod svm;
pub mod sync;
pub mod translations;
pub mod validate;
pub mod vcpu;
pub mod vmx;
pub mod walk;
