//! The ledger's file: lines are appended by one writer that takes everything waiting, writes it, syncs
//! once, and then answers all who wait (group commit). A line is on disk before its waiter goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use crate::simulator::lock::Lock;

/// Lines on their way to the file.
#[derive(Debug, Default)]
pub struct Journal {
    waiting: Lock<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    answers: Vec<oneshot::Sender<()>>,
    /// After a failed write the file may end in half a line: nothing more is taken.
    broken: bool,
}

/// Resolves to `Ok` when the line is synced, to an error when it never will be.
pub type Synced = oneshot::Receiver<()>;

impl Journal {
    /// Puts a line in the queue; the order of calls is the order in the file.
    pub fn append(&self, entry: &Entry) -> Synced {
        let (answer, synced) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        // A refused line drops its answer, which is how its waiter learns of it.
        if !waiting.broken && serde_json::to_writer(&mut waiting.bytes, entry).is_ok() {
            waiting.bytes.push(b'\n');
            waiting.answers.push(answer);
        }
        drop(waiting);
        self.wake.notify_one();
        synced
    }

    /// Writes until `stop` is cancelled and nothing waits any more.
    pub async fn write(&self, file: File, stop: CancellationToken) {
        let file = Arc::new(file);
        loop {
            let (bytes, answers) = {
                let mut waiting = self.waiting.lock();
                (std::mem::take(&mut waiting.bytes), std::mem::take(&mut waiting.answers))
            };
            if bytes.is_empty() {
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = stop.cancelled() => {}
                }
                if self.waiting.lock().bytes.is_empty() {
                    return;
                }
                continue;
            }
            let to = Arc::clone(&file);
            let written = tokio::task::spawn_blocking(move || {
                (&*to).write_all(&bytes)?;
                to.sync_data()
            });
            match written.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => {
                    for answer in answers {
                        // Whoever does not wait for it has dropped its end.
                        let _ = answer.send(());
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the simulator's ledger cannot be written: no more orders");
                    let mut waiting = self.waiting.lock();
                    waiting.broken = true;
                    waiting.bytes.clear();
                    waiting.answers.clear();
                }
            }
        }
    }
}

/// Opens the file for appending and hands every entry already in it to `each`. A last line without its
/// newline was never acknowledged: it is cut off.
pub fn open(path: &Path, mut each: impl FnMut(Entry)) -> io::Result<File> {
    let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let mut reader = BufReader::new(&file);
    let (mut line, mut whole, mut n) = (Vec::new(), 0_u64, 0_u64);
    while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        n += 1;
        let entry = serde_json::from_slice(&line).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}:{n}: {error}", path.display()))
        })?;
        each(entry);
        whole += u64::try_from(line.len()).unwrap_or(0);
        line.clear();
    }
    if !line.is_empty() {
        file.set_len(whole)?;
    }
    file.sync_all()?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_written_is_never_acknowledged() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(file.path()).unwrap();
        let (journal, stop) = (Arc::new(Journal::default()), CancellationToken::new());
        let entry = Entry::Result { seq: 1, url: "x".to_owned(), sha256: None, sent_sha256: None };
        let first = journal.append(&entry);
        let writing = journal.write(read_only, stop.clone());
        let asking = async {
            assert!(first.await.is_err());
            assert!(journal.append(&entry).await.is_err());
            stop.cancel();
        };
        tokio::join!(writing, asking);
    }
}
