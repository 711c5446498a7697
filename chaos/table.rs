//! The table of crash windows (kill -9 between …): what must be seen after the restart, per point and kind of provider.
//! The points are those the sources pass (`crash("…")`); one that is not in the table is a failure of the run.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

/// What must be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The task succeeds, paid for once, and says so.
    Once,
    /// Nobody can say what became of the call: `outcome_unknown`, billed unknown, never sent again; so many POSTs arrived.
    Unknown(usize),
    /// Paid by the hour, it is sent once more and succeeds; so many POSTs arrived in all.
    Again(usize),
    /// The same as once, where providers can ring.
    Rung,
    /// The end is `outcome_unknown`, and the picture is attached afterwards, once.
    Late,
    /// The same as once; the end is announced again, under the same id.
    Told,
    /// An answer gave no picture and is in quarantine as it came, once. The task ends with this code; where it succeeds, paid
    /// by the hour it was sent once more.
    Quarantined(&'static str),
    /// The same; what an operator supplies in the answer's place becomes the late result, once.
    Recovered(&'static str),
    /// This provider never passes the point.
    NotPassed(&'static str),
}

const NO_STREAM: &str = "its answer says nothing before it is whole";
const SILENT: &str = "it cannot ring";
const AT_ONCE: &str = "its answer holds the picture: there is no handle and no poll";

/// What must be seen after a crash at `point` with `provider`, without callbacks.
pub fn expected(point: &str, provider: &str) -> Option<Seen> {
    use Seen::{Again, Late, NotPassed, Once, Quarantined, Recovered, Rung, Told, Unknown};
    let by_the_hour = provider == "imagepipeline";
    let polled = matches!(provider, "piapi_flux" | "imagepipeline");
    let streams = provider == "gpt_4o_image";
    Some(match point {
        // Nothing was promised, or the same task is found under the key, or the lease ends: bought after the restart.
        "accept.received" | "accept.committed" | "claim.committed" |
        // The answer lies in the spool, and is read again.
        "answer.received" | "bytes.incoming" |
        // The links are known: the pictures are fetched again, or are here already.
        "links.committed" | "bytes.stored" | "end.committed" => Once,
        // The intent is committed, and nothing says that the call was not made.
        "intent.committed" if by_the_hour => Again(1),
        "intent.committed" => Unknown(0),
        // A stream's first link lies in the spool before it is heard, and is committed before the answer is whole.
        "signal.received" | "signal.committed" if streams => Once,
        "signal.received" | "signal.committed" => NotPassed(NO_STREAM),
        "handle.committed" | "poll.answered" if polled => Once,
        "handle.committed" | "poll.answered" => NotPassed(AT_ONCE),
        "callback.received" | "callback.committed" if polled => Rung,
        "late.found" if polled => Late,
        "callback.received" | "callback.committed" | "late.found" => NotPassed(SILENT),
        "webhook.sent" => Told,
        "quarantine.stored" | "quarantine.committed" => Quarantined(in_vain(provider)),
        "recover.committed" => Recovered(in_vain(provider)),
        _ => return None,
    })
}

/// How a task ends whose first answer gives no picture; see [`no_picture`].
fn in_vain(provider: &str) -> &'static str {
    match provider {
        // Whether an answer without a picture is charged is documented nowhere.
        "gpt_image" => "outcome_unknown",
        "imagepipeline" => SUCCEEDED,
        _ => "no_image_returned",
    }
}

/// The end of a task that has its picture.
pub const SUCCEEDED: &str = "succeeded";

/// What makes the first answer give no picture, and be kept.
pub fn no_picture(provider: &str) -> &'static str {
    // A job that makes nothing costs nothing where the server is paid by the hour; whether one was taken on may not be known.
    match provider {
        "imagepipeline" => "bad_json times=1",
        // The price of a picture: what an operator supplies says that there was one.
        "gpt_4o_image" => "no_image billed=true",
        _ => "no_image",
    }
}

/// The points that the sources pass.
pub fn points() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path)?;
                let calls = text.split("crash(\"").skip(1);
                found.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
    Ok(found)
}
