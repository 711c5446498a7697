//! Status words in all their spellings. Only an explicit success or failure ends a job; a word nobody has seen means
//! that it is still under way.

/// What a status word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Under way, or a word nobody has seen.
    Pending,
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Stopped on request.
    Canceled,
}

/// Reads a word as providers spell it: any case, stray white space, synonyms.
pub fn read(provider: &str, word: &str) -> Status {
    match word.trim().to_ascii_lowercase().as_str() {
        "completed" | "complete" | "success" | "succeeded" => Status::Done,
        "failed" | "failure" | "error" | "rejected" => Status::Failed,
        "canceled" | "cancelled" => Status::Canceled,
        "" | "pending" | "starting" | "staged" | "retry" | "queued" | "processing" | "running"
        | "in_progress" => Status::Pending,
        other => {
            tracing::warn!(
                provider.id = provider,
                status = other,
                "a status word nobody has seen; taken as under way"
            );
            Status::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_seen_spellings() {
        for (word, status) in [
            ("", Status::Pending),
            ("processing\t", Status::Pending),
            ("Processing", Status::Pending),
            ("Completed", Status::Done),
            ("SUCCESS", Status::Done),
            ("succeeded", Status::Done),
            ("FAILURE", Status::Failed),
            ("canceled", Status::Canceled),
            ("quantum", Status::Pending),
        ] {
            assert_eq!(read("p", word), status, "{word:?}");
        }
    }
}
