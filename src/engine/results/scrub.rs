//! Overwrites secrets of ours in bytes that stream by, with as many other bytes, so that nothing moves.

use std::io;

use bytes::Bytes;
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};

/// Shorter secrets are none, and would be found everywhere.
const SHORTEST: usize = 8;

/// A header's value with every secret overwritten.
pub(super) fn scrubbed_text(text: &str, secrets: &[String]) -> String {
    let secrets = secrets.iter().filter(|secret| secret.len() >= SHORTEST);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), &"*".repeat(secret.len())))
}

/// The bytes of `body` with every secret overwritten; `found` counts how many were.
pub(super) fn scrubbed<S>(
    body: S,
    secrets: Vec<String>,
    found: std::sync::Arc<std::sync::atomic::AtomicU64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    let secrets: Vec<Vec<u8>> =
        secrets.into_iter().filter(|secret| secret.len() >= SHORTEST).map(String::into_bytes).collect();
    // The end of a piece may be the beginning of a secret.
    let held_back = secrets.iter().map(Vec::len).max().unwrap_or(1) - 1;
    let state = (body, Vec::new(), false);
    Box::pin(unfold(state, move |(mut body, mut held, over)| {
        let (secrets, found) = (secrets.clone(), std::sync::Arc::clone(&found));
        async move {
            if over {
                return None;
            }
            let over = match body.next().await {
                Some(Ok(piece)) => {
                    held.extend_from_slice(&piece);
                    false
                }
                Some(Err(error)) => return Some((Err(error), (body, held, true))),
                None => true,
            };
            for secret in &secrets {
                let places: Vec<usize> = memchr::memmem::find_iter(&held, secret).collect();
                for at in places {
                    held[at..at + secret.len()].fill(b'*');
                    found.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            }
            let whole = if over { held.len() } else { held.len().saturating_sub(held_back) };
            let rest = held.split_off(whole);
            Some((Ok(Bytes::from(held)), (body, rest, over)))
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_secret_gets_through_however_the_body_is_cut(
            cuts in proptest::collection::vec(0usize..120, 0..6), twice in any::<bool>(),
        ) {
            let again = if twice { "secret-0123456789" } else { "" };
            let body = format!("a secret-0123456789 b other-secret-42{again} c short d secret-012345678");
            let mut at: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            at.extend([0, body.len()]);
            at.sort_unstable();
            let pieces: Vec<_> =
                at.windows(2).map(|pair| Ok(Bytes::copy_from_slice(&body.as_bytes()[pair[0]..pair[1]]))).collect();
            let found = Arc::new(AtomicU64::new(0));
            let secrets = vec!["secret-0123456789".to_owned(), "other-secret-42".to_owned(), "short".to_owned()];
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let all: Vec<u8> = runtime.block_on(async {
                let stream = scrubbed(futures_util::stream::iter(pieces), secrets, Arc::clone(&found));
                stream.map(|piece| piece.unwrap().to_vec()).concat().await
            });
            let stars = |length: usize| "*".repeat(length);
            let expected = body.replace("secret-0123456789", &stars(17)).replace("other-secret-42", &stars(15));
            prop_assert_eq!(String::from_utf8(all).unwrap(), expected);
            prop_assert_eq!(found.load(Ordering::Relaxed), if twice { 3 } else { 2 });
        }
    }
}
