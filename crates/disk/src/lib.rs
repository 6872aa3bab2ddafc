//! Disk images: raw and qcow2, locking, creation, backing-chain policy.
