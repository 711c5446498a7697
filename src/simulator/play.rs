//! A body told beat by beat: what is said, when it pauses, and how it breaks off.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;

use super::connection::Switch;

/// One beat of a body.
#[derive(Debug, Clone)]
pub enum Beat {
    /// Bytes.
    Say(Bytes),
    /// A pause. What was said so far is on its way before it; a pause of zero does only that.
    Wait(Duration),
    /// The connection ends here, with a FIN.
    Close,
    /// The connection ends here, with an RST.
    Reset,
}

impl Beat {
    /// Says this.
    pub fn say(what: impl Into<Bytes>) -> Self {
        Self::Say(what.into())
    }
}

/// The body that tells these beats; without a breaking beat it ends well.
pub fn body(beats: impl Iterator<Item = Beat> + Send + 'static, switch: Switch) -> Body {
    Body::from_stream(stream::unfold((beats, switch), |(mut beats, switch)| async move {
        loop {
            match beats.next()? {
                Beat::Say(bytes) => return Some((Ok::<_, Infallible>(bytes), (beats, switch))),
                Beat::Wait(Duration::ZERO) => tokio::task::yield_now().await,
                Beat::Wait(span) => tokio::time::sleep(span).await,
                Beat::Close => {
                    switch.close();
                    pending::<()>().await;
                }
                Beat::Reset => {
                    switch.reset();
                    pending::<()>().await;
                }
            }
        }
    }))
}
