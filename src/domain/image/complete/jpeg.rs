//! JPEG, segment by segment: complete at the first end-of-image marker behind a scan. Segments are skipped by
//! their length, so that the marker inside an EXIF thumbnail does not count; scans are searched for the next
//! marker that is neither stuffing nor a restart. Without that marker the last scan may go on: the image is
//! cut.

use super::{Step, Walker, be};

/// Restart markers: they stand inside a scan.
const RST: std::ops::RangeInclusive<u8> = 0xd0..=0xd7;
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

#[derive(Default)]
pub(super) struct Jpeg {
    state: State,
    /// Whether a scan has begun.
    scan: bool,
}

#[derive(Default, Clone, Copy)]
enum State {
    /// Before the next 0xFF.
    #[default]
    Search,
    /// Behind an 0xFF: the marker's code.
    Code,
    /// Behind a marker that has a length.
    Length,
}

impl Walker for Jpeg {
    fn start(&self) -> Step {
        Step::Find { skip: 0, byte: 0xff }
    }

    fn next(&mut self, field: &[u8], _at: u64) -> Step {
        match (self.state, field) {
            (State::Search, _) => self.state = State::Code,
            (State::Code, [code]) => match *code {
                // Fill bytes before a marker.
                0xff => {}
                EOI if self.scan => return Step::Complete,
                // Stuffing, markers without a length, and codes that no marker has.
                0x00..=0xbf | SOI | EOI => return self.search(0),
                code if RST.contains(&code) => return self.search(0),
                code => {
                    self.scan |= code == SOS;
                    self.state = State::Length;
                    return Step::Read { skip: 0, read: 2 };
                }
            },
            // The length counts its own two bytes.
            (_, length) => return self.search(be(length).saturating_sub(2)),
        }
        Step::Read { skip: 0, read: 1 }
    }
}

impl Jpeg {
    fn search(&mut self, skip: u64) -> Step {
        self.state = State::Search;
        Step::Find { skip, byte: 0xff }
    }
}
