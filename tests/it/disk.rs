//! A disk whose free space tests set by hand.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use easel::blobs::space::{FreeSpace, Room};

const MIB: u64 = 1024 * 1024;

/// Large and empty at first.
pub struct Disk(AtomicU64);

impl Disk {
    pub fn new() -> Self {
        Self(AtomicU64::new(100_000))
    }

    pub fn leave_mib(&self, free: u64) {
        self.0.store(free, Ordering::SeqCst);
    }
}

impl FreeSpace for Disk {
    fn room(&self, _: &Path) -> io::Result<Room> {
        Ok(Room { free: self.0.load(Ordering::SeqCst) * MIB, total: 200_000 * MIB })
    }
}
