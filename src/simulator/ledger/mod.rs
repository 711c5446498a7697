//! The upstream's own books, and the judge of double payment: every paid POST that arrived whole is written
//! and synced before anything is done with it, and what was billed for it is written later.

mod book;
mod entry;
mod journal;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::book::Book;
pub use self::entry::{Entry, File, KeyCheck, Outcome, Provider, Reception};
use self::journal::Journal;
use super::lock::Lock;

/// What was billed so far.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Billed {
    /// The exact total in nano-dollars, over everything ever received.
    pub total_nanos: i64,
    /// Per reception whose bill is decided, by its `seq`.
    pub by_seq: BTreeMap<u64, i64>,
}

/// The ledger. Cheap to ask; only [`Ledger::receive`] waits for the disk.
#[derive(Debug)]
pub struct Ledger {
    /// Guards the order of lines as well: a line is queued while the book is held.
    book: Lock<Book>,
    journal: Option<std::sync::Arc<Journal>>,
}

impl Ledger {
    /// Opens or creates the file and goes on where it ended; without a path everything stays in memory.
    pub async fn open(
        path: Option<PathBuf>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self { book: Lock::default(), journal: None }) };
        let (file, book) = tokio::task::spawn_blocking(move || {
            let mut book = Book::default();
            journal::open(&path, |entry| book.apply(entry)).map(|file| (file, book))
        })
        .await
        .map_err(io::Error::other)??;
        let journal = std::sync::Arc::new(Journal::default());
        let writer = std::sync::Arc::clone(&journal);
        tracker.spawn(async move { writer.write(file, stop).await });
        Ok(Self { book: Lock::new(book), journal: Some(journal) })
    }

    /// Writes a reception down and returns its number once that is on disk.
    pub async fn receive(&self, mut reception: Reception) -> io::Result<u64> {
        let (seq, synced) = {
            let mut book = self.book.lock();
            reception.seq = book.next_seq();
            let seq = reception.seq;
            (seq, self.note(&mut book, Entry::Received(reception)))
        };
        match synced {
            Some(synced) => synced.await.map(|()| seq).map_err(|_| io::Error::other("the ledger is broken")),
            None => Ok(seq),
        }
    }

    /// The upstream took it on.
    pub fn accept(&self, seq: u64, upstream_id: Option<&str>, price_nanos: i64) {
        let upstream_id = upstream_id.map(str::to_owned);
        self.note(&mut self.book.lock(), Entry::Accepted { seq, upstream_id, price_nanos });
    }

    /// The bill is decided.
    pub fn bill(&self, seq: u64, outcome: Outcome, nanos: i64, why: &str) {
        let entry = Entry::Billed { seq, outcome, nanos, why: why.to_owned() };
        self.note(&mut self.book.lock(), entry);
    }

    /// A picture exists, or its bytes are now known. Said once.
    pub fn result(&self, seq: u64, url: &str, sha256: Option<&str>) {
        let mut book = self.book.lock();
        if !book.knows(seq, url, sha256) {
            let sha256 = sha256.map(str::to_owned);
            self.note(&mut book, Entry::Result { seq, url: url.to_owned(), sha256, sent_sha256: None });
        }
    }

    /// More than a picture's own bytes is sent. Said once.
    pub fn sent(&self, seq: u64, url: &str, sha256: &str) {
        let mut book = self.book.lock();
        if !book.knows_sent(seq, url, sha256) {
            let (url, sent_sha256) = (url.to_owned(), Some(sha256.to_owned()));
            self.note(&mut book, Entry::Result { seq, url, sha256: None, sent_sha256 });
        }
    }

    /// The receptions in memory, in order of arrival.
    pub fn receptions(&self) -> Vec<Reception> {
        self.book.lock().receptions()
    }

    /// What was billed so far.
    pub fn billed(&self) -> Billed {
        let book = self.book.lock();
        Billed { total_nanos: book.total_nanos(), by_seq: book.by_seq() }
    }

    fn note(&self, book: &mut Book, entry: Entry) -> Option<journal::Synced> {
        let synced = self.journal.as_ref().map(|journal| journal.append(&entry));
        book.apply(entry);
        synced
    }
}
