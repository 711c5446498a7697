//! A mutex for short, await-free critical sections. A panic while it is held spoils nothing here: every
//! section leaves its data whole at each step, so poisoning is ignored.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex whose `lock` cannot fail.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Puts `value` under lock.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the value. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
