//! A place in a trace as it travels and as a task keeps it: the two headers of the W3C recommendation. What they say is
//! read and written by `trace/`.

use serde::{Deserialize, Serialize};

/// A place in a trace: the span that what follows is beneath.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// `traceparent`: the trace, the span, and whether it is recorded.
    pub parent: String,
    /// `tracestate`: what other systems in the trace have to say to each other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
}
