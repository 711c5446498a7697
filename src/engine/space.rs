//! Room on the disks: looked at on a timer, and while there is too little, nothing new is taken in and nothing is bought. What
//! is paid for is still brought here, and everything is served.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Inner, Refusal};

/// The disks are looked at this often.
const EVERY: Duration = Duration::from_secs(5);
/// When to ask again.
pub(super) const COME_BACK: Duration = Duration::from_secs(30);

/// Looks until told to stop.
pub(super) async fn serve(engine: Arc<Inner>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
        let space = engine.space.clone();
        // A panic in there would have been logged, and the next look comes.
        let _ = tokio::task::spawn_blocking(move || space.look()).await;
    }
}

impl Engine {
    /// Looks at the disks now, as the loop does every few seconds.
    pub fn look_at_disks(&self) {
        self.inner.space.look();
    }

    /// Which disk has too little room for new work.
    pub fn tight(&self) -> Option<String> {
        self.inner.space.tight()
    }

    /// The share of the pictures' disk that is free, 0 to 1, as of the last look.
    pub fn free_for_pictures(&self) -> Option<f64> {
        self.inner.space.free()
    }

    /// Bytes of answers and images that wait in the spool.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn spooled(&self) -> f64 {
        self.inner.spool.used() as f64
    }

    /// An error while there is too little room to keep what new work brings.
    pub fn has_room(&self) -> Result<(), Refusal> {
        self.inner.tight().map_or(Ok(()), Err)
    }
}

impl Inner {
    /// Why nothing new can be kept, when nothing can.
    pub(super) fn tight(&self) -> Option<Refusal> {
        self.space.tight().map(|_| Refusal::NoSpace(COME_BACK))
    }
}
