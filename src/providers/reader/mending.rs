//! Undoes what relays are known to do to answers on their way. It could spoil an answer that nobody has touched, so an answer
//! is read like this only when it has given nothing as it came.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

/// Comments that keep a connection alive, written by a relay into the middle of a line.
const INTERRUPTIONS: [&[u8]; 6] = [
    b": keepalive\n\n",
    b": keep-alive\n\n",
    b":keepalive\n\n",
    b": ping\n\n",
    b": heartbeat\n\n",
    b": OPENROUTER PROCESSING\n\n",
];
/// The longest of them.
const LONGEST: usize = 32;

/// The body without what interrupts its lines.
pub fn uninterrupted<S>(body: S) -> impl Stream<Item = Result<Bytes, String>> + Send + Unpin
where
    S: Stream<Item = Result<Bytes, String>> + Send + Unpin,
{
    let pieces = body.map(Some).chain(futures_util::stream::iter([None]));
    let mut held = Held::default();
    Box::pin(pieces.filter_map(move |piece| {
        std::future::ready(match piece {
            Some(Ok(piece)) => Some(Ok(held.take(&piece, false))),
            Some(Err(error)) => Some(Err(error)),
            None => Some(Ok(held.take(&[], true))),
        })
    }))
}

/// The end of what came: an interruption may have begun in it.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// The byte before it.
    before: Option<u8>,
}

impl Held {
    fn take(&mut self, piece: &[u8], last: bool) -> Bytes {
        self.bytes.extend_from_slice(piece);
        let mut out = Vec::with_capacity(self.bytes.len());
        let mut rest = self.bytes.as_slice();
        while let Some(at) = memchr::memchr(b':', rest) {
            if rest.len() - at < LONGEST && !last {
                break;
            }
            let before = if at > 0 { Some(rest[at - 1]) } else { out.last().copied().or(self.before) };
            let found = INTERRUPTIONS.iter().find(|one| rest[at..].starts_with(one));
            out.extend_from_slice(&rest[..at]);
            if let Some(one) = found.filter(|_| before.is_some_and(|byte| byte != b'\n')) {
                rest = &rest[at + one.len()..];
            } else {
                out.push(b':');
                rest = &rest[at + 1..];
            }
        }
        let keep = if last { 0 } else { memchr::memchr(b':', rest).map_or(0, |at| rest.len() - at) };
        let (done, kept) = rest.split_at(rest.len() - keep);
        out.extend_from_slice(done);
        let kept = kept.to_vec();
        self.before = out.last().copied().or(self.before);
        self.bytes = kept;
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mended(body: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut held = Held::default();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
        at.extend([0, body.len()]);
        at.sort_unstable();
        let mut out: Vec<u8> =
            at.windows(2).flat_map(|pair| held.take(&body[pair[0]..pair[1]], false).to_vec()).collect();
        out.extend(held.take(&[], true));
        out
    }

    #[test]
    fn what_interrupts_a_line_goes_and_comments_stay() {
        let mended = |body: &str| String::from_utf8(mended(body.as_bytes(), &[])).unwrap();
        assert_eq!(mended("data: {\"a\":\"iVB: keepalive\n\nOR\"}\n\n"), "data: {\"a\":\"iVBOR\"}\n\n");
        assert_eq!(
            mended("{\"safety_: keepalive\n\nbuffering\":fals: ping\n\ne}"),
            "{\"safety_buffering\":false}"
        );
        for untouched in [": keepalive\n\ndata: {}\n\n: ping\n\n", "a: b\n\n", "data:{\"a\":1}", "", ":"] {
            assert_eq!(mended(untouched), untouched);
        }
    }

    proptest! {
        #[test]
        fn any_pieces_are_mended_alike(body in "(a|:|: ping\n\n|: keepalive\n\n|\n){0,20}", cuts in proptest::collection::vec(any::<usize>(), 0..8)) {
            prop_assert_eq!(mended(body.as_bytes(), &cuts), mended(body.as_bytes(), &[]));
        }
    }
}
