//! The body at a result's link, read by the same reader: an image as it is, compressed, as base64, or inside a document.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

use super::{Answer, BrokenImage, Images, InlineImage, Interpreter, Limits, MARK, MAX_IMAGE, Part, read};
use crate::domain::image::NotAPicture;
use crate::providers::call::unknown;
use crate::providers::results;
use crate::providers::{ImageSource, Kind, Own, Progress, ProviderError, Signal};
use crate::spool::{Evidence, Head, Spool};

/// Lines of a body that is read as text or events.
const LINES: usize = 100_000;

/// The image a body holds, or why it holds none; and the body as it came. How long it may take is the stream's business.
pub async fn download<S>(
    answer: (Head, S),
    spool: &Spool,
) -> (Result<Arc<InlineImage>, BrokenImage>, Answer, Evidence)
where
    S: Stream<Item = Result<Bytes, String>> + Send + Unpin + 'static,
{
    let ample = Duration::from_hours(1);
    // As base64 an image is a third longer, and something may stand around it.
    let limits = Limits {
        total: MAX_IMAGE * 3 / 2,
        lines: LINES,
        idle: ample,
        silent: ample,
        whole: ample,
        mending: false,
    };
    let mut found = Found::default();
    let (answer, evidence) = read(answer, limits, spool.buffer(), spool, &mut found, None).await;
    let image = found.0.into_iter().next();
    let broken = answer.broken.unwrap_or(if answer.whole && answer.length > 0 {
        BrokenImage::Unacceptable(NotAPicture::Type)
    } else {
        BrokenImage::Cut
    });
    (image.ok_or(broken), answer, evidence)
}

#[derive(Default)]
struct Found(Vec<Arc<InlineImage>>);

impl Interpreter for Found {
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
        // Nothing but an image as base64; what stands in a text is its own.
        let text = part.text.trim().trim_matches(['"', '\'']);
        if text.starts_with(MARK) && text.ends_with(MARK) && text.matches(MARK).count() == 2 {
            self.0.extend(images.in_text(text));
        }
        if let Some(json) = part.json {
            let found = results::find(&json, images, &Own::default()).images;
            self.0.extend(found.into_iter().filter_map(|source| match source {
                ImageSource::Inline(image) => Some(image),
                // A page's links lead anywhere.
                ImageSource::Url(_) => None,
            }));
        }
        Vec::new()
    }

    fn conclude(&mut self, _: &Answer) -> Result<Progress, ProviderError> {
        Err(ProviderError::new(Kind::Garbled, unknown("a download"), "a download"))
    }
}
