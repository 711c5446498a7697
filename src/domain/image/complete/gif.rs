//! GIF, block by block: complete at the trailer. Many files lack it, so an image that ends right behind the
//! data of a frame, or goes on with something that is no block, is complete where that frame ended. A cut
//! that falls exactly between two frames of an animation cannot be told from a missing trailer.

use super::{Step, Walker};

/// Signature, version and logical screen descriptor, in bytes.
const HEADER: usize = 13;
const EXTENSION: u8 = 0x21;
const FRAME: u8 = 0x2c;
const TRAILER: u8 = 0x3b;
/// The extension that announces a frame.
const GRAPHIC_CONTROL: u8 = 0xf9;

#[derive(Default)]
pub(super) struct Gif {
    state: State,
    /// Where the data of the last whole frame ended.
    frame_end: Option<u64>,
    /// Whether another frame has been announced.
    announced: bool,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Header,
    /// The first byte of a block.
    Block,
    /// The nine bytes that describe a frame.
    Descriptor,
    /// The label of an extension.
    Label,
    /// The length of a sub-block.
    SubBlock { frame: bool },
}

/// Length of the colour table that these flags announce, in bytes.
fn color_table(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

impl Walker for Gif {
    fn start(&self) -> Step {
        Step::Read { skip: 0, read: HEADER }
    }

    fn next(&mut self, field: &[u8], at: u64) -> Step {
        let (state, skip, read) = match (self.state, field[0]) {
            (State::Header, _) => (State::Block, color_table(field[10]), 1),
            (State::Block, FRAME) => (State::Descriptor, 0, 9),
            (State::Block, EXTENSION) => (State::Label, 0, 1),
            (State::Block, TRAILER) if self.frame_end.is_some() => return Step::Complete,
            (State::Block, _) => return self.frame_end.map_or(Step::Broken, Step::CompleteAt),
            // The byte between the colour table and the data is the size of the first codes.
            (State::Descriptor, _) => (State::SubBlock { frame: true }, color_table(field[8]) + 1, 1),
            (State::Label, label) => {
                self.announced |= label == GRAPHIC_CONTROL;
                (State::SubBlock { frame: false }, 0, 1)
            }
            (State::SubBlock { frame }, 0) => {
                if frame {
                    (self.frame_end, self.announced) = (Some(at), false);
                }
                (State::Block, 0, 1)
            }
            (state, length) => (state, length.into(), 1),
        };
        self.state = state;
        Step::Read { skip, read }
    }

    fn complete_if_last(&self, _field: &[u8]) -> Option<u64> {
        self.frame_end.filter(|_| matches!(self.state, State::Block) && !self.announced)
    }
}
