//! Puts a kernel into guest memory: Linux bzImage, PVH ELF, Multiboot 1.
