//! Where the chaos suite reaches in: [`crash`] dies at a named point, [`planted`] says whether a named bug is to be
//! alive, so that the suite can prove that it would notice. Without the feature `chaos`, which no release has, both are
//! constants that the compiler removes.

/// Ends the process at once, as kill -9 would, when `EASEL_CRASH` names this point: `point`, or `point:3` for the third
/// time it is passed.
#[cfg(feature = "chaos")]
pub fn crash(point: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static CHOSEN: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let text = variable("EASEL_CRASH")?;
        let (point, time) = text.split_once(':').unwrap_or((&text, "1"));
        Some((point.to_owned(), time.parse().unwrap_or(1)))
    });
    static PASSED: AtomicU32 = AtomicU32::new(0);
    if let Some((chosen, time)) = &*CHOSEN
        && chosen == point
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *time
    {
        std::process::abort();
    }
}

/// Whether `EASEL_BUG` names this bug.
#[cfg(feature = "chaos")]
pub fn planted(bug: &str) -> bool {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| variable("EASEL_BUG"));
    CHOSEN.as_deref() == Some(bug)
}

#[cfg(feature = "chaos")]
#[expect(clippy::disallowed_methods, reason = "no part of the gateway: chosen by the suite that starts it")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Nothing.
#[cfg(not(feature = "chaos"))]
#[inline]
pub fn crash(_: &str) {}

/// No.
#[cfg(not(feature = "chaos"))]
#[inline]
pub const fn planted(_: &str) -> bool {
    false
}
