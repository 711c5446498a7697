//! What hostile and broken event streams have in common, whoever sends them.

use std::iter;
use std::time::Duration;

use bytes::Bytes;

use super::connection::Switch;
use super::faults::{Cut, CutBy, Faults, Sse};
use super::play::Beat;

/// The pause between keep-alive comments when nothing else ever comes.
const IDLE: Duration = Duration::from_millis(100);
const FILLER: &[u8] = &[b'x'; 16 << 10];
/// So many tiny events are said at once.
const CROWD: usize = 64;
/// The length of the text in an event that is far too big.
pub const BIG: usize = 20 << 20;

/// A stream, beat by beat.
pub type Beats = Box<dyn Iterator<Item = Beat> + Send>;

/// The ways a stream never gets anywhere; `tiny` is an event that says nothing.
pub fn endless(hostile: Option<Sse>, tiny: Beat) -> Option<Beats> {
    match hostile? {
        Sse::NoNewline => Some(Box::new(
            iter::once(Beat::say("data: {\"id\":\""))
                .chain(iter::repeat_with(|| Beat::Say(Bytes::from_static(FILLER)))),
        )),
        Sse::CommentsForever => {
            Some(Box::new(iter::repeat([Beat::say(": keep-alive\n\n"), Beat::Wait(IDLE)]).flatten()))
        }
        Sse::Flood => Some(flood(tiny)),
        Sse::CommentFlood => Some(flood(Beat::say(":\n\n"))),
        _ => None,
    }
}

/// The same for ever, a crowd at a time: as fast as the other side takes it.
fn flood(tiny: Beat) -> Beats {
    let crowd = match tiny {
        Beat::Say(bytes) => Beat::Say(bytes.repeat(CROWD).into()),
        other => other,
    };
    Box::new(iter::repeat(crowd))
}

/// Ends a stream where it stands, after what was said is on its way.
pub fn cut_off(mut beats: Vec<Beat>, by: CutBy) -> Beats {
    beats.push(Beat::Wait(Duration::ZERO));
    beats.push(match by {
        CutBy::Reset => Beat::Reset,
        CutBy::Eof => Beat::Close,
    });
    Box::new(beats.into_iter())
}

/// Ends the connection before any byte of an answer, if that is asked for; then does not return before it is
/// gone.
pub async fn cut_at_start(faults: &Faults, switch: &Switch) {
    if faults.cut != Some(Cut::Start) {
        return;
    }
    match faults.cut_by {
        CutBy::Reset => switch.reset(),
        CutBy::Eof => switch.close(),
    }
    switch.gone().await;
}

/// Puts two bytes that are no UTF-8 where the first question mark stands.
pub fn bad_utf8(event: &str) -> Beat {
    let (before, after) = event.split_once('?').unwrap_or((event, ""));
    Beat::say([before.as_bytes(), &[0xff, 0xfe], after.as_bytes()].concat())
}
