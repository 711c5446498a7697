//! Layer 1: local files for bodies on their way, so that a slow store never holds a connection that was paid for. Small
//! bodies stay in memory, larger ones go to a file at the speed of the line; a body is read again from wherever it is.
//!
//! Every process has a folder of its own below the configured one, under a lock. The answers that a killed process had
//! begun to receive are taken over by the next one.

mod buffer;
mod evidence;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use buffer::{SpoolBuffer, Spooled};
pub use evidence::{Evidence, Head};

use crate::domain::secret::token;

/// The lock file in a process's folder: whoever can lock it knows that the process is gone.
const LOCK: &str = "lock";
/// What the name of a process's folder begins with until it is locked.
const MAKING: &str = ".making-";
/// Ending of the files of answers to paid calls, which are named by their attempt.
const ANSWER: &str = "answer";

/// Where bodies wait. Clones share it.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    /// Held for as long as the process lives.
    _lock: File,
    /// Bytes in files beyond which nothing new is bought.
    limit: u64,
    /// Bytes in files.
    used: AtomicU64,
    /// Bytes in memory.
    held: AtomicU64,
    /// Answers left by processes that were killed, by the name they were begun under.
    left: Mutex<HashMap<String, Left>>,
}

/// An answer that nobody holds.
struct Left {
    path: PathBuf,
    /// How much of it counts as used.
    counted: u64,
}

impl Spool {
    /// Opens a folder, making it when there is none, and takes over what killed processes left in it. `limit` is in bytes.
    ///
    /// # Errors
    /// When the folder cannot be made, written or locked.
    pub fn open(base: &Path, limit: u64) -> io::Result<Self> {
        Self::begin(base, limit, true)
    }

    /// The same for a program beside a gateway: what killed processes left is not for it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_beside(base: &Path, limit: u64) -> io::Result<Self> {
        Self::begin(base, limit, false)
    }

    fn begin(base: &Path, limit: u64, takes_over: bool) -> io::Result<Self> {
        let name = token();
        // Nobody takes over what is not called so yet: between its making and its locking it looks like a dead process's.
        let (making, folder) = (base.join(format!("{MAKING}{name}")), base.join(name));
        fs::create_dir_all(&making)?;
        let lock = File::create(making.join(LOCK))?;
        lock.try_lock().map_err(io::Error::from)?;
        fs::rename(&making, &folder)?;
        let mut left = HashMap::new();
        for entry in fs::read_dir(base)?.filter(|_| takes_over) {
            let other = entry?.path();
            let making = other.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MAKING));
            if making && is_old(&other) {
                // Its process was killed before it was one; nothing is in it.
                _ = fs::remove_dir_all(&other);
            } else if other != folder && other.is_dir() && !making {
                // One that cannot be taken over keeps nobody from serving.
                if let Err(error) = take_over(&other, &folder, &mut left) {
                    tracing::warn!(folder = %other.display(), %error, "a killed process's spool cannot be taken over");
                }
            }
        }
        let used = left.values().map(|left| left.counted).sum();
        Ok(Self(Arc::new(Inner {
            folder,
            _lock: lock,
            limit,
            used: AtomicU64::new(used),
            held: AtomicU64::default(),
            left: Mutex::new(left),
        })))
    }

    /// A buffer for a body nobody needs after a kill.
    pub fn buffer(&self) -> SpoolBuffer {
        SpoolBuffer::new(self.clone(), self.0.folder.join(token()), None)
    }

    /// A buffer for the answer to a paid call. Unless it is [acted on](Spooled::acted_on) it is found again by `name`, after a
    /// kill by the next process.
    pub fn answer(&self, name: &str, head: &Head) -> SpoolBuffer {
        let mut line = serde_json::to_vec(head).unwrap_or_default();
        line.push(b'\n');
        SpoolBuffer::new(
            self.clone(),
            self.0.folder.join(format!("{name}.{ANSWER}")),
            Some((name.to_owned(), line)),
        )
    }

    /// What was received of the answer that was begun under `name` and never acted on: its process was killed, or its
    /// worker panicked. To one caller at a time; it is here again when it was not acted on.
    pub fn left(&self, name: &str) -> Option<Evidence> {
        let left = self.lock_left().remove(name)?;
        let (head, body) = Spooled::found(self.clone(), name.to_owned(), left)?;
        // Whether all of it came is not known.
        Some(Evidence { head: serde_json::from_slice(&head).unwrap_or_default(), body, whole: false })
    }

    /// The names of those answers.
    pub fn names_left(&self) -> Vec<String> {
        self.lock_left().keys().cloned().collect()
    }

    /// Whether so much waits here that nothing new should be bought.
    pub fn full(&self) -> bool {
        self.0.used.load(Ordering::Relaxed) >= self.0.limit
    }

    /// Bytes in files.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// So much is not there any more.
    fn let_go(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        _ = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn lock_left(&self) -> std::sync::MutexGuard<'_, HashMap<String, Left>> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What nobody asked for is left to the next process: then the folder is not empty and stays.
        if self.left.get_mut().unwrap_or_else(PoisonError::into_inner).is_empty() {
            _ = fs::remove_file(self.folder.join(LOCK));
            _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Whether a folder was made an hour ago or more.
fn is_old(folder: &Path) -> bool {
    let made = fs::metadata(folder).and_then(|about| about.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age >= Duration::from_hours(1)))
}

/// Moves the answers out of a folder whose process is gone, and removes the rest.
fn take_over(other: &Path, folder: &Path, left: &mut HashMap<String, Left>) -> io::Result<()> {
    let lock = File::create(other.join(LOCK))?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    for entry in fs::read_dir(other)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        match name.filter(|_| path.extension().is_some_and(|ending| ending == ANSWER)) {
            Some(name) => {
                let to = folder.join(format!("{name}.{ANSWER}"));
                fs::rename(&path, &to)?;
                let counted = fs::metadata(&to).map_or(0, |found| found.len());
                left.insert(name, Left { path: to, counted });
            }
            None if path.file_name().is_some_and(|name| name == LOCK) => {}
            None => fs::remove_file(&path)?,
        }
    }
    fs::remove_file(other.join(LOCK))?;
    fs::remove_dir(other)
}

#[cfg(test)]
#[expect(
    clippy::used_underscore_binding,
    reason = "a lock that is only held is let go of by these tests alone"
)]
mod tests {
    use std::io::Write;

    use futures_util::StreamExt;

    use super::*;

    async fn read(spooled: &Spooled) -> Vec<u8> {
        let mut all = Vec::new();
        let mut body = spooled.stream();
        while let Some(piece) = body.next().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    }

    #[tokio::test]
    async fn small_bodies_stay_in_memory_and_large_ones_go_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 1_000_000).unwrap();
        for (length, in_files) in [(1_000, 0), (3_000_000, 3_000_000)] {
            let body: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[at as usize % 3]).collect();
            let mut buffer = spool.buffer();
            for piece in body.chunks(70_001) {
                buffer.push(piece);
                buffer.settle().await;
            }
            let spooled = buffer.finish().await;
            assert_eq!((spooled.len(), spool.used() > 0), (u64::from(length), in_files > 0));
            assert_eq!(spool.full(), in_files > 1_000_000);
            assert_eq!(read(&spooled).await, body);
            assert_eq!(spooled.head(100).await.unwrap(), body[..100]);
            drop(spooled);
            assert_eq!(spool.used(), 0, "what nobody holds is removed");
        }
    }

    #[tokio::test]
    async fn what_a_killed_process_had_received_is_found_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let first = Spool::open(folder.path(), u64::MAX).unwrap();
        let body = vec![7; 600_000];
        let head = Head { status: 200, headers: vec![("server".into(), "x".into())], retry_after: None };
        for name in ["att_1", "att_2"] {
            let mut buffer = first.answer(name, &head);
            buffer.push(&body);
            buffer.settle().await;
            // Killed: nothing is dropped.
            std::mem::forget(buffer);
        }
        let living = Spool::open(folder.path(), u64::MAX).unwrap();
        assert!(living.names_left().is_empty(), "the first process is not gone");
        // A process that is gone holds no lock.
        first.0._lock.unlock().unwrap();
        let next = Spool::open(folder.path(), u64::MAX).unwrap();
        let evidence = next.left("att_1").unwrap();
        assert!(next.left("att_1").is_none() && next.left("att_3").is_none());
        assert_eq!(evidence.head, head);
        let found = read(&evidence.body).await;
        assert!(!found.is_empty() && body.starts_with(&found), "{}", found.len());
        assert_eq!(next.names_left(), ["att_2"]);
        drop(evidence);
        let again = next.left("att_1").expect("nobody has acted on it");
        again.body.acted_on();
        drop(again);
        assert!(next.left("att_1").is_none());
        next.0._lock.unlock().unwrap();
        let last = Spool::open(folder.path(), u64::MAX).unwrap();
        assert_eq!(last.names_left(), ["att_2"], "what was not asked for is handed on");
    }

    #[tokio::test]
    async fn what_is_counted_is_uncounted_whatever_became_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 1 << 30).unwrap();
        let head = Head { status: 200, headers: vec![], retry_after: None };
        let mut buffer = spool.answer("att_1", &head);
        buffer.push(&vec![7; 600_000]);
        buffer.settle().await;
        let body = buffer.finish().await;
        drop(body);
        // A write that a full disk took half of.
        let path = spool.0.folder.join("att_1.answer");
        fs::File::options().append(true).open(&path).unwrap().write_all(&vec![7; 100_000]).unwrap();
        let again = spool.left("att_1").unwrap();
        again.body.acted_on();
        drop(again);
        assert_eq!((spool.used(), spool.full()), (0, false));
    }
}
