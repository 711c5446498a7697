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

/// How many tasks are kept; some 4 KiB each.
const KEPT: usize = 2_048;
/// For how long, should another program have changed the file after all.
const HOLDS: Duration = Duration::from_secs(5);
/// Rows share stamps: one whose neighbour changed is read once more.
const STAMPS: u16 = 1_024;

/// What was read of tasks that have not changed since.
pub(super) struct Known<V>(Mutex<Shelf<V>>);

struct Shelf<V> {
    kept: LruCache<TaskId, Kept<V>>,
    /// Whose row that is, of those that are kept.
    whose: HashMap<i64, TaskId>,
    /// Rows that the transaction in progress has changed: until its end nobody can say which version others see.
    changing: HashSet<i64>,
    /// Whether it has changed pictures.
    pictures: bool,
    /// When rows were last committed, in commits, by their number's remainder.
    committed: Box<[u64]>,
    commits: u64,
}

struct Kept<V> {
    value: V,
    row: i64,
    since: Instant,
}

/// The moment before a reading begins, in commits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(u64);

impl<V: Clone + Send + 'static> Known<V> {
    pub fn nothing() -> Self {
        Self(Mutex::new(Shelf {
            kept: LruCache::new(KEPT),
            whose: HashMap::new(),
            changing: HashSet::new(),
            pictures: false,
            committed: vec![0; STAMPS.into()].into(),
            commits: 0,
        }))
    }

    /// Hears of every row that this connection changes, which must be the only one that does.
    pub async fn follow(self: &Arc<Self>, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let known = Arc::clone(self);
        writer.lock_handle().await?.set_update_hook(move |change| match change.table {
            "tasks" => known.shelf().change(change.rowid),
            "images" => known.shelf().pictures = true,
            _ => {}
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
        (kept.since.elapsed() < HOLDS).then(|| kept.value.clone())
    }

    /// To be asked before the reading begins whose result is to be kept.
    pub fn before(&self) -> Before {
        Before(self.shelf().commits)
    }

    /// Keeps what was read of the task in that row, unless it changed since.
    pub fn keep(&self, before: Before, id: TaskId, row: i64, value: V) {
        self.shelf().keep(before, id, Kept { value, row, since: Instant::now() });
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Shelf<V> {
    fn change(&mut self, row: i64) {
        self.changing.insert(row);
        if let Some(id) = self.whose.remove(&row) {
            self.kept.remove(&id);
        }
    }

    fn settle(&mut self) {
        debug_assert!(!self.pictures || !self.changing.is_empty(), "pictures changed and no task");
        self.pictures = false;
        if self.changing.is_empty() {
            return;
        }
        self.commits += 1;
        for row in std::mem::take(&mut self.changing) {
            self.committed[stamp(row)] = self.commits;
        }
    }

    fn keep(&mut self, Before(commits): Before, id: TaskId, kept: Kept<V>) {
        let row = kept.row;
        if self.changing.contains(&row) || self.committed[stamp(row)] > commits {
            return;
        }
        let over = if self.kept.len() == KEPT { self.kept.remove_lru() } else { None };
        let earlier = self.kept.insert(id, kept);
        for gone in over.map(|(_, gone)| gone).into_iter().chain(earlier) {
            self.whose.remove(&gone.row);
        }
        self.whose.insert(row, id);
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
                            known.keep(before, ids[row], rows[row], read);
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
        let known = Known::<usize>::nothing();
        let clock = SystemClock::start();
        let ids: Vec<_> = (0..=KEPT).map(|_| TaskId::mint(&clock)).collect();
        for (n, id) in ids.iter().enumerate() {
            known.keep(known.before(), *id, i64::try_from(n).unwrap(), n);
            assert_eq!(known.get(ids[0]), Some(0));
        }
        assert_eq!((known.get(ids[1]), known.get(ids[2])), (None, Some(2)));
        assert_eq!(known.shelf().whose.len(), KEPT);
    }
}
