//! One body on its way: [`SpoolBuffer`] takes it in, [`Spooled`] is what was taken. A disk that refuses costs memory up to
//! a bound, never the body's reader its connection.

use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;

use super::{Left, Spool};

/// A body up to this long stays in memory, while all of them together stay below [`HELD`].
const SMALL: usize = 1280 * 1024;
/// Bytes that all buffers together may hold before each writes what it has.
const HELD: u64 = 24 * 1024 * 1024;
/// A buffer writes no less than this at once.
const PIECE: usize = 256 * 1024;
/// What a buffer holds at most of a body that no disk takes; what is beyond is lost.
const REFUSED: usize = 64 * 1024 * 1024;
/// The longest head of an answer.
const MAX_HEAD: u64 = 1024 * 1024;
/// How much is read at once.
const READ: usize = 128 * 1024;

/// A body being taken in.
pub struct SpoolBuffer {
    spool: Spool,
    path: PathBuf,
    /// For the answer to a paid call: its name, and its head as the file's first line.
    answer: Option<(String, Vec<u8>)>,
    file: Option<Arc<SpoolFile>>,
    /// Bytes in the file.
    written: u64,
    /// What comes after them.
    tail: Vec<u8>,
    /// Whether some of the body was lost because no disk took it.
    lossy: bool,
}

/// A body that was taken in. Clones share it; the last one removes its file, unless it is the answer to a paid call that
/// was not [acted on](Self::acted_on).
#[derive(Clone)]
pub struct Spooled {
    file: Option<Arc<SpoolFile>>,
    written: u64,
    tail: Bytes,
    /// Accounts for the tail.
    _held: Arc<Held>,
}

struct SpoolFile {
    spool: Spool,
    path: PathBuf,
    file: File,
    /// Where the body begins.
    begins: u64,
    /// Bytes that count as used.
    length: AtomicU64,
    /// For the answer to a paid call until it was acted on: the name it is kept under when nobody holds it any more.
    kept_as: Mutex<Option<String>>,
}

impl SpoolFile {
    fn kept_as(&self) -> MutexGuard<'_, Option<String>> {
        self.kept_as.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        let counted = self.length.load(Ordering::Relaxed);
        if let Some(name) = self.kept_as().take() {
            self.spool.lock_left().insert(name, Left { path: self.path.clone(), counted });
            return;
        }
        _ = fs::remove_file(&self.path);
        self.spool.let_go(counted);
    }
}

struct Held {
    spool: Spool,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.spool.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl SpoolBuffer {
    pub(super) fn new(spool: Spool, path: PathBuf, answer: Option<(String, Vec<u8>)>) -> Self {
        Self { spool, path, answer, file: None, written: 0, tail: Vec::new(), lossy: false }
    }

    /// Adds bytes. They are in memory until [`Self::settle`].
    pub fn push(&mut self, bytes: &[u8]) {
        if self.tail.len() + bytes.len() > REFUSED {
            self.lossy = true;
            return;
        }
        self.spool.0.held.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.tail.extend_from_slice(bytes);
    }

    /// How long the body is so far.
    pub fn len(&self) -> u64 {
        self.written + self.tail.len() as u64
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves to the file what should not stay in memory.
    pub async fn settle(&mut self) {
        let crowded = self.spool.0.held.load(Ordering::Relaxed) > HELD;
        let most = if self.file.is_some() || self.answer.is_some() || crowded { PIECE } else { SMALL };
        if self.tail.len() >= most {
            self.write().await;
        }
    }

    /// Moves the answer to a paid call to its file, whatever little there is: what is acted on from here is found again after a
    /// kill.
    pub async fn flush(&mut self) {
        if self.answer.is_some() && !self.tail.is_empty() {
            self.write().await;
        }
    }

    /// Writes the tail to the file. A refusal leaves it where it is: the next call tries again.
    async fn write(&mut self) {
        let piece = std::mem::take(&mut self.tail);
        let (known, at) = (self.file.clone(), self.written);
        let (path, spool, answer) = (self.path.clone(), self.spool.clone(), self.answer.clone());
        let task = tokio::task::spawn_blocking(move || {
            let file = known.map_or_else(|| begin(spool, path, answer), Ok);
            let written = file.and_then(|file| {
                file.file.write_all_at(&piece, file.begins + at)?;
                Ok(file)
            });
            (written, piece)
        });
        match task.await {
            Ok((Ok(file), piece)) => {
                let length = piece.len() as u64;
                file.length.fetch_add(length, Ordering::Relaxed);
                self.spool.0.used.fetch_add(length, Ordering::Relaxed);
                self.spool.0.held.fetch_sub(length, Ordering::Relaxed);
                self.written += length;
                self.file = Some(file);
            }
            Ok((Err(error), piece)) => {
                tracing::error!(path = %self.path.display(), %error, "the spool cannot be written; the body stays in memory");
                self.tail = piece;
            }
            // A panic in there is logged by the runtime; its bytes are gone.
            Err(_) => self.lossy = true,
        }
    }

    /// The body as far as it came. The answer to a paid call is in its file by now, however short it is.
    pub async fn finish(mut self) -> Spooled {
        self.flush().await;
        let tail = Bytes::from(std::mem::take(&mut self.tail));
        let bytes = tail.len() as u64;
        let held = Arc::new(Held { spool: self.spool.clone(), bytes });
        Spooled { file: self.file.take(), written: self.written, tail, _held: held }
    }

    /// Whether some of it was lost because no disk took it.
    pub fn lossy(&self) -> bool {
        self.lossy
    }
}

impl Drop for SpoolBuffer {
    fn drop(&mut self) {
        // Whoever took in the answer to a paid call has panicked or was let go of: what came of it is kept all the same.
        if !self.tail.is_empty()
            && let Some(answer) = self.answer.take()
        {
            let begun = || begin(self.spool.clone(), self.path.clone(), Some(answer));
            let written = self
                .file
                .take()
                .map_or_else(begun, Ok)
                .and_then(|file| file.file.write_all_at(&self.tail, file.begins + self.written));
            if let Err(error) = written {
                tracing::error!(path = %self.path.display(), %error, "what came of an answer cannot be kept");
            }
        }
        self.spool.0.held.fetch_sub(self.tail.len() as u64, Ordering::Relaxed);
    }
}

fn begin(spool: Spool, path: PathBuf, answer: Option<(String, Vec<u8>)>) -> io::Result<Arc<SpoolFile>> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    let (name, head) = answer.unzip();
    let head = head.unwrap_or_default();
    let (begins, length, kept_as) = (head.len() as u64, AtomicU64::new(0), Mutex::default());
    // From here on the file goes when it cannot be begun.
    let begun = Arc::new(SpoolFile { spool, path, file, begins, length, kept_as });
    begun.file.write_all_at(&head, 0)?;
    *begun.kept_as() = name;
    Ok(begun)
}

impl Spooled {
    /// A body that is at hand.
    pub fn of(bytes: Bytes, spool: &Spool) -> Self {
        let held = Arc::new(Held { spool: spool.clone(), bytes: 0 });
        Self { file: None, written: 0, tail: bytes, _held: held }
    }

    /// A file of a process that was killed, and the line it begins with.
    pub(super) fn found(spool: Spool, name: String, left: Left) -> Option<(Vec<u8>, Self)> {
        let Left { path, counted } = left;
        let file = File::options().read(true).write(true).open(&path).ok()?;
        let mut line = Vec::new();
        io::BufReader::new(&file).take(MAX_HEAD).read_until(b'\n', &mut line).ok()?;
        let begins = line.len() as u64;
        let written = file.metadata().ok()?.len().saturating_sub(begins);
        let held = Arc::new(Held { spool: spool.clone(), bytes: 0 });
        let (length, kept_as) = (AtomicU64::new(counted), Mutex::new(Some(name)));
        let file = Arc::new(SpoolFile { spool, path, file, begins, length, kept_as });
        Some((line, Self { file: Some(file), written, tail: Bytes::new(), _held: held }))
    }

    /// The answer to a paid call was acted on: its file goes with the last who holds it, instead of being kept.
    pub fn acted_on(&self) {
        if let Some(file) = &self.file {
            *file.kept_as() = None;
        }
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.written + self.tail.len() as u64
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole body where it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        self.file.is_none().then_some(&self.tail)
    }

    /// Its first `most` bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn head(&self, most: usize) -> io::Result<Bytes> {
        let mut head = Vec::new();
        let (mut body, mut at) = (self.clone(), 0);
        while head.len() < most {
            let Some((piece, next)) = body.piece(at, most - head.len()).await? else { break };
            head.extend_from_slice(&piece);
            (body, at) = next;
        }
        Ok(head.into())
    }

    /// The body from its beginning, piece by piece.
    pub fn stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
        Box::pin(unfold(Some((self.clone(), 0)), |state| async move {
            let (body, at) = state?;
            match body.piece(at, READ).await {
                Ok(Some((piece, next))) => Some((Ok(piece), Some(next))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// At most `most` bytes from `at` on, and where to go on; `None` at the end.
    async fn piece(self, at: u64, most: usize) -> io::Result<Option<(Bytes, (Self, u64))>> {
        let piece = match &self.file {
            Some(file) if at < self.written => {
                let (file, left) = (Arc::clone(file), self.written - at);
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(most);
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; length];
                    file.file.read_exact_at(&mut piece, file.begins + at).map(|()| Bytes::from(piece))
                });
                read.await.map_err(io::Error::other)??
            }
            _ => {
                let from = usize::try_from(at - self.written).unwrap_or(usize::MAX).min(self.tail.len());
                self.tail.slice(from..self.tail.len().min(from.saturating_add(most)))
            }
        };
        let next = at + piece.len() as u64;
        Ok((!piece.is_empty()).then_some((piece, (self, next))))
    }
}

impl std::fmt::Debug for Spooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spooled({} bytes)", self.len())
    }
}
