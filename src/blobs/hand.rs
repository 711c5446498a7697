//! What is in hand: bytes that are here and whose row is not yet committed. Equal bytes are kept once, so a picture that one
//! task lets go of may be the very one that another has just been given; nothing in hand is erased, and nothing that is being
//! erased is taken in hand.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What this process has in hand.
#[derive(Clone, Default)]
pub(super) struct Hands(Arc<Room>);

#[derive(Default)]
struct Room {
    by_hash: Mutex<HashMap<String, Use>>,
    freed: Notify,
}

enum Use {
    Held(usize),
    Erasing,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Use>> {
        self.by_hash.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hands {
    /// Takes in hand what lies, or is to lie, under this hash; waits while it is being erased.
    pub async fn take(&self, sha256: &str) -> Hold {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            // Armed before looking, so that an end in between is not missed.
            freed.as_mut().enable();
            if let Some(hold) = self.try_take(sha256) {
                return hold;
            }
            freed.await;
        }
    }

    fn try_take(&self, sha256: &str) -> Option<Hold> {
        match self.0.lock().entry(sha256.to_owned()).or_insert(Use::Held(0)) {
            Use::Held(count) => *count += 1,
            Use::Erasing => return None,
        }
        Some(Hold(Arc::new(Held { hands: self.clone(), sha256: sha256.to_owned() })))
    }

    /// Keeps everybody from taking it in hand for as long as the mark lives; `None` when somebody has it.
    pub fn condemn(&self, sha256: &str) -> Option<Condemned> {
        let mut by_hash = self.0.lock();
        if by_hash.contains_key(sha256) {
            return None;
        }
        by_hash.insert(sha256.to_owned(), Use::Erasing);
        Some(Condemned { hands: self.clone(), sha256: sha256.to_owned() })
    }

    fn let_go(&self, sha256: &str) {
        let mut by_hash = self.0.lock();
        match by_hash.get_mut(sha256) {
            Some(Use::Held(count)) if *count > 1 => *count -= 1,
            _ => _ = by_hash.remove(sha256),
        }
        drop(by_hash);
        self.0.freed.notify_waiters();
    }
}

/// Keeps bytes from being erased for as long as it lives: until the row that points to them is committed.
#[derive(Clone)]
pub struct Hold(#[expect(dead_code, reason = "held for its end")] Arc<Held>);

struct Held {
    hands: Hands,
    sha256: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hands.let_go(&self.sha256);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// It says nothing of the bytes.
impl PartialEq for Hold {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Hold {}

/// Bytes nobody may take in hand, because they may be erased this very moment.
pub struct Condemned {
    hands: Hands,
    sha256: String,
}

impl Condemned {
    /// Which bytes.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

impl Drop for Condemned {
    fn drop(&mut self) {
        self.hands.let_go(&self.sha256);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_hand_is_not_condemned_and_what_is_condemned_is_waited_for() {
        let hands = Hands::default();
        let first = hands.take("aa").await;
        let second = first.clone();
        drop(first);
        assert!(hands.condemn("aa").is_none() && hands.condemn("bb").is_some());
        drop(second);
        let condemned = hands.condemn("aa").unwrap();
        assert!(hands.condemn("aa").is_none(), "one at a time");
        let mut taking = std::pin::pin!(hands.take("aa"));
        assert!(futures_util::poll!(&mut taking).is_pending());
        drop(condemned);
        drop(taking.await);
        assert!(hands.0.lock().is_empty(), "nothing is left behind");
    }
}
