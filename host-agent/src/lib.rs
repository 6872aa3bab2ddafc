//! The host side: CLI `macrohard-hypervisor`, daemon `macrohardd`, VM process `macrohard-vm`.
