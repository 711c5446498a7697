//! What was read last of tasks, for those who look again and again. Right by construction, on SQLite alone: all that
//! changes tasks goes through one connection, whose hook names every row before its change can be seen, and what was read
//! meanwhile is not kept. Whoever changes a task's pictures writes its row in the same transaction. Postgres has other
//! writers, so there nothing is kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashlink::LruCache;
use sqlx::SqliteConnection;

use crate::domain::id::TaskId;

/// How many bytes of rows are kept; in memory a row can be many times as large as its text.
const KEPT: usize = 3 << 20;
/// A row that is larger is not kept; most have between one and two KiB.
const LARGE: usize = 8 << 10;
/// For how long, should another program have changed the file after all.
const HOLDS: Duration = Duration::from_secs(5);
/// Rows share stamps: one whose neighbour changed is read once more.
const STAMPS: u16 = 1_024;

/// What was read of tasks that have not changed since.
pub(super) struct Known<V>(Mutex<Shelf<V>>);

struct Shelf<V> {
    kept: LruCache<TaskId, Kept<V>>,
    /// How many bytes of rows that is.
    bytes: usize,
    /// Whose row that is, of those that are kept.
    whose: HashMap<i64, TaskId>,
    /// Rows that the transaction in progress has changed: until its end nobody can say which version others see.
    changing: HashSet<i64>,
    /// When rows were last committed, in commits, by their number's remainder.
    committed: Box<[u64]>,
    commits: u64,
}

struct Kept<V> {
    value: V,
    row: i64,
    bytes: usize,
    since: Instant,
}

/// The moment before a reading begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    commits: u64,
    at: Instant,
}

impl<V: Clone + Send + 'static> Known<V> {
    pub fn nothing() -> Self {
        Self(Mutex::new(Shelf {
            kept: LruCache::new_unbounded(),
            bytes: 0,
            whose: HashMap::new(),
            changing: HashSet::new(),
            committed: vec![0; STAMPS.into()].into(),
            commits: 0,
        }))
    }

    /// Hears of every row that this connection changes, which must be the only one that does.
    pub async fn follow(self: &Arc<Self>, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let known = Arc::clone(self);
        writer.lock_handle().await?.set_update_hook(move |change| {
            if change.table == "tasks" {
                known.shelf().change(change.rowid);
            }
        });
        Ok(())
    }

    /// What the writer changed is committed or undone, and nobody has been told yet.
    pub fn settled(&self) {
        self.shelf().settle();
    }

    /// What was read of a task, if it has not changed.
    pub fn get(&self, id: TaskId) -> Option<V> {
        let mut known = self.shelf();
        let kept = known.kept.get(&id)?;
        if kept.since.elapsed() < HOLDS {
            return Some(kept.value.clone());
        }
        known.drop_one(id);
        None
    }

    /// To be asked before the reading begins whose result is to be kept.
    pub fn before(&self) -> Before {
        Before { commits: self.shelf().commits, at: Instant::now() }
    }

    /// Keeps what was read of the task in that row of so many bytes, unless it changed since.
    pub fn keep(&self, before: Before, id: TaskId, row: i64, bytes: usize, value: V) {
        if bytes <= LARGE {
            self.shelf().keep(before.commits, id, Kept { value, row, bytes, since: before.at });
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Shelf<V> {
    fn change(&mut self, row: i64) {
        self.changing.insert(row);
        if let Some(id) = self.whose.get(&row) {
            self.drop_one(*id);
        }
    }

    fn drop_one(&mut self, id: TaskId) {
        if let Some(gone) = self.kept.remove(&id) {
            self.dropped(id, &gone);
        }
    }

    fn dropped(&mut self, id: TaskId, gone: &Kept<V>) {
        self.bytes -= gone.bytes;
        if self.whose.get(&gone.row) == Some(&id) {
            self.whose.remove(&gone.row);
        }
    }

    fn settle(&mut self) {
        if self.changing.is_empty() {
            return;
        }
        self.commits += 1;
        for row in std::mem::take(&mut self.changing) {
            self.committed[stamp(row)] = self.commits;
        }
    }

    fn keep(&mut self, before: u64, id: TaskId, kept: Kept<V>) {
        if self.changing.contains(&kept.row) || self.committed[stamp(kept.row)] > before {
            return;
        }
        self.drop_one(id);
        self.whose.insert(kept.row, id);
        self.bytes += kept.bytes;
        self.kept.insert(id, kept);
        while self.bytes > KEPT
            && let Some((oldest, gone)) = self.kept.remove_lru()
        {
            self.dropped(oldest, &gone);
        }
    }
}

fn stamp(row: i64) -> usize {
    usize::try_from(row.rem_euclid(STAMPS.into())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::SystemClock;

    /// What happens, one after the other: each of the two rows is changed, committed, told of, and read by three readers.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Change(usize),
        Commit,
        Undo,
        Settle,
        Begin(usize, usize),
        Read(usize),
        Keep(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2_usize).prop_map(Step::Change),
            Just(Step::Commit),
            Just(Step::Undo),
            Just(Step::Settle),
            (0..3_usize, 0..2_usize).prop_map(|(reader, row)| Step::Begin(reader, row)),
            (0..3_usize).prop_map(Step::Read),
            (0..3_usize).prop_map(Step::Keep),
        ]
    }

    proptest! {
        /// Whatever overlaps what: what is known is what the database says.
        #[test]
        fn what_is_known_is_what_is_committed(steps in prop::collection::vec(step(), 0..200)) {
            let known = Known::<u64>::nothing();
            let ids = [(); 2].map(|()| TaskId::mint(&SystemClock::start()));
            let rows = [7_i64, 7 + i64::from(STAMPS)];
            // Committed, and in the transaction; whether that is over and not yet told of.
            let (mut committed, mut inside, mut over) = ([0_u64; 2], [0_u64; 2], false);
            let mut readers: [Option<(usize, Before, Option<u64>)>; 3] = [None; 3];
            for step in steps {
                match step {
                    Step::Change(row) if !over => {
                        known.shelf().change(rows[row]);
                        inside[row] += 1;
                    }
                    Step::Commit if !over => (committed, over) = (inside, true),
                    Step::Undo if !over => (inside, over) = (committed, true),
                    Step::Settle if over => {
                        known.settled();
                        over = false;
                    }
                    Step::Begin(reader, row) => readers[reader] = Some((row, known.before(), None)),
                    Step::Read(reader) => {
                        if let Some((row, _, read)) = &mut readers[reader] {
                            read.get_or_insert(committed[*row]);
                        }
                    }
                    Step::Keep(reader) => {
                        if let Some((row, before, Some(read))) = readers[reader].take() {
                            known.keep(before, ids[row], rows[row], 1_000, read);
                        }
                    }
                    _ => {}
                }
                for (id, committed) in ids.iter().zip(committed) {
                    prop_assert!(known.get(*id).is_none_or(|known| known == committed));
                }
            }
        }
    }

    #[test]
    fn the_one_looked_at_longest_ago_makes_room() {
        let (known, clock, bytes) = (Known::<usize>::nothing(), SystemClock::start(), LARGE / 2);
        let ids: Vec<_> = (0..=KEPT / bytes).map(|_| TaskId::mint(&clock)).collect();
        for (n, id) in ids.iter().enumerate() {
            known.keep(known.before(), *id, i64::try_from(n).unwrap(), bytes, n);
            assert_eq!(known.get(ids[0]), Some(0));
        }
        assert_eq!((known.get(ids[1]), known.get(ids[2])), (None, Some(2)));
        let large = TaskId::mint(&clock);
        known.keep(known.before(), large, -1, LARGE + 1, 0);
        assert_eq!(known.get(large), None);
        let shelf = known.shelf();
        assert_eq!((shelf.bytes, shelf.kept.len(), shelf.whose.len()), (KEPT, KEPT / bytes, KEPT / bytes));
    }

    /// Another program has changed the file, perhaps.
    #[test]
    fn nothing_is_believed_for_long() {
        let (known, id) = (Known::<u64>::nothing(), TaskId::mint(&SystemClock::start()));
        let before = known.before();
        let long_ago = Before { at: before.at.checked_sub(HOLDS).unwrap(), ..before };
        known.keep(long_ago, id, 1, 1_000, 7);
        assert_eq!(known.get(id), None);
        assert_eq!(known.shelf().bytes, 0);
    }
}
