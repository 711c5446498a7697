//! The images inside an answer. They go to the spool as they are decoded; a mark with a number stands for each in the text
//! it was taken from.

use std::sync::Arc;

use super::inline::{BrokenImage, ImageWriter, InlineImage};
use crate::spool::Spool;

/// Stands around the number of an image in the text it was taken from.
pub const MARK: &str = "\u{f8ff}";

/// The images inside an answer, by their number.
pub struct Images {
    pub(super) spool: Spool,
    /// Whether blanks in base64 stand for the plus signs that a form would have made of them.
    pub(super) mending: bool,
    found: Vec<Option<Arc<InlineImage>>>,
    pub(super) broken: Option<BrokenImage>,
    /// Images whose base64 has ended and that are still to be closed.
    ended: Vec<(usize, ImageWriter)>,
}

impl Images {
    pub(super) fn new(spool: &Spool, mending: bool) -> Self {
        Self { spool: spool.clone(), mending, found: Vec::new(), broken: None, ended: Vec::new() }
    }

    /// Takes an image whose base64 has ended; the mark that stands for it.
    pub(super) fn mark(&mut self, image: ImageWriter) -> String {
        let number = self.found.len();
        self.found.push(None);
        self.ended.push((number, image));
        format!("{MARK}{number}{MARK}")
    }

    /// Closes the images that have ended.
    pub(super) async fn settle(&mut self) {
        for (number, image) in std::mem::take(&mut self.ended) {
            match (image.finish().await, self.found.get_mut(number)) {
                (Ok(image), Some(place)) => *place = Some(image),
                (Ok(_), None) => {}
                (Err(broken), _) => self.broken = Some(broken),
            }
        }
    }

    /// The images whose marks stand in a text, in order.
    pub fn in_text(&self, text: &str) -> Vec<Arc<InlineImage>> {
        let numbers = text.split(MARK).skip(1).step_by(2);
        numbers.filter_map(|number| self.found.get(number.parse::<usize>().ok()?)?.clone()).collect()
    }
}
