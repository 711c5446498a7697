//! Free space on the disks that the gateway writes to, looked at now and then and never per request. Below its floor new work
//! is refused while what is paid for is still kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MIB: u64 = 1024 * 1024;
/// What lies on the disk whose room is a figure.
pub const PICTURES: &str = "pictures";

/// The space of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What we may still write.
    pub free: u64,
    /// The whole disk.
    pub total: u64,
}

/// Tells the space of the disk a path lies on.
pub trait FreeSpace: Send + Sync + 'static {
    /// The space now.
    fn room(&self, at: &Path) -> io::Result<Room>;
}

/// The system's answer.
#[derive(Debug, Clone, Copy)]
pub struct SystemSpace;

impl FreeSpace for SystemSpace {
    fn room(&self, at: &Path) -> io::Result<Room> {
        let found = rustix::fs::statvfs(at)?;
        Ok(Room {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// How much must stay free: the smaller of the two, so that neither a small disk nor a very large one is refused for
/// nothing. Zero asks for nothing.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// In MiB.
    pub mib: u32,
    /// In percent of the disk.
    pub percent: u8,
}

impl Floor {
    fn of(self, room: Room) -> u64 {
        (u64::from(self.mib) * MIB).min(room.total / 100 * u64::from(self.percent))
    }
}

/// The disks that are watched.
#[derive(Clone)]
pub struct Space(Arc<Watch>);

struct Watch {
    disks: Vec<(&'static str, PathBuf)>,
    floor: Floor,
    probe: Arc<dyn FreeSpace>,
    seen: Mutex<Seen>,
}

/// What the last look showed.
#[derive(Default)]
struct Seen {
    tight: Option<String>,
    pictures: Option<Room>,
}

impl Space {
    /// Watches the disks of these folders, each named by what lies there, and looks at them once.
    pub fn watch(disks: Vec<(&'static str, PathBuf)>, floor: Floor, probe: Arc<dyn FreeSpace>) -> Self {
        let space = Self(Arc::new(Watch { disks, floor, probe, seen: Mutex::default() }));
        space.look();
        space
    }

    /// Looks at the disks. A call to the system, which a dead network disk may hold up: not for a runtime's own threads.
    pub fn look(&self) {
        let watch = &self.0;
        let mut seen = Seen::default();
        for (name, at) in &watch.disks {
            let room = match watch.probe.room(at) {
                Ok(room) => room,
                Err(error) => {
                    // Whether it can be written is the probe's matter at readiness.
                    tracing::warn!(%error, disk = name, "cannot tell the free space");
                    continue;
                }
            };
            if *name == PICTURES {
                seen.pictures = Some(room);
            }
            let floor = watch.floor.of(room);
            if room.free < floor && seen.tight.is_none() {
                let (free, floor) = (room.free / MIB, floor / MIB);
                seen.tight = Some(format!(
                    "{free} MiB are free for the {name}, less than the {floor} MiB that are to stay free"
                ));
            }
        }
        let mut known = self.seen();
        match (&known.tight, &seen.tight) {
            (None, Some(tight)) => tracing::error!("{tight}: new work is refused until there is room"),
            (Some(_), None) => tracing::info!("there is room on the disks again: new work is taken in"),
            _ => {}
        }
        *known = seen;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which disk is too full for new work, as of the last look.
    pub fn tight(&self) -> Option<String> {
        self.seen().tight.clone()
    }

    /// The share of the pictures' disk that is free for us, 0 to 1, as of the last look; `None` where nobody can tell.
    pub fn free(&self) -> Option<f64> {
        let room = self.seen().pictures.filter(|room| room.total > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let free = room.free as f64 / room.total as f64;
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_smaller_of_the_two() {
        let floor = Floor { mib: 512, percent: 5 };
        let disk = |total: u64| floor.of(Room { free: 0, total });
        assert_eq!((disk(16 * MIB) / 1024, disk(1024 * 1024 * MIB)), (819, 512 * MIB));
        for off in [Floor { mib: 0, percent: 5 }, Floor { mib: 512, percent: 0 }] {
            assert_eq!(off.of(Room { free: 0, total: 1024 * MIB }), 0);
        }
    }

    #[test]
    fn the_system_knows_its_disks() {
        let room = SystemSpace.room(Path::new("/")).unwrap();
        assert!(room.total >= room.free && room.total > 0);
        let nowhere = Space::watch(
            vec![("nothing", PathBuf::from("/no/such/folder"))],
            Floor { mib: 1, percent: 100 },
            Arc::new(SystemSpace),
        );
        assert_eq!((nowhere.tight(), nowhere.free()), (None, None));
    }

    #[test]
    fn the_disk_of_the_pictures_has_a_figure_and_a_bucket_does_not_tell() {
        let folder = tempfile::tempdir().unwrap();
        let watch = |name, at: &Path| {
            let floor = Floor { mib: 0, percent: 0 };
            Space::watch(vec![(name, at.to_owned())], floor, Arc::new(SystemSpace)).free()
        };
        let free = watch(PICTURES, folder.path());
        assert!(free.is_some_and(|free| (0.0..=1.0).contains(&free)), "{free:?}");
        assert_eq!(watch("database", folder.path()), None);
        assert_eq!(watch(PICTURES, Path::new("/nowhere/at/all")), None);
    }
}
