//! AVIF, box by box: complete when the last byte has come to which the item locations (`iloc`, inside `meta`)
//! point; they nearly always lie in `mdat`. An image sequence (brand `avis`) needs its whole `moov` and
//! `mdat` boxes as well. Boxes of 64-bit sizes and one that reaches to the end of the file are known.

use super::{Step, Walker, be};

/// Size and type of a box, in bytes.
const BOX_HEADER: usize = 8;
/// Item locations up to their count: version, flags, and the widths of what follows.
const ILOC_HEADER: usize = 6;

#[derive(Default)]
pub(super) struct Avif {
    state: State,
    /// The end of the box that is walked, outside `meta` or `meta` itself.
    outer: BoxEnd,
    /// The same inside `meta`.
    inner: BoxEnd,
    iloc: Iloc,
    /// The byte behind the last one that an item needs; known when the locations have been read.
    items_end: Option<u64>,
    sequence: bool,
    movie: bool,
    media: bool,
}

/// Type of a box and where it ends.
#[derive(Default, Clone, Copy)]
struct BoxEnd {
    kind: [u8; 4],
    end: u64,
}

/// Widths of the fields in an item location box, in bytes, and what is left to be read of it.
#[derive(Default, Clone, Copy)]
struct Iloc {
    version: u8,
    offset: usize,
    length: usize,
    base: usize,
    index: usize,
    items: u64,
    extents: u64,
    /// The current item's base offset; `None` when its data lies elsewhere.
    base_offset: Option<u64>,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Header,
    /// A size of eight bytes behind the header.
    LongHeader,
    /// The first brand of `ftyp`.
    Brand,
    /// The end of the items' data, inside `mdat`.
    ItemsEnd,
    /// The end of a box outside `meta`, or of `meta`.
    End,
    InnerHeader,
    InnerLongHeader,
    IlocHeader,
    IlocCount,
    IlocItem,
    IlocExtent,
}

impl Walker for Avif {
    fn start(&self) -> Step {
        Step::Read { skip: 0, read: BOX_HEADER }
    }

    fn next(&mut self, field: &[u8], at: u64) -> Step {
        match self.state {
            State::Header | State::LongHeader => {
                let long = matches!(self.state, State::LongHeader);
                match header(&mut self.outer, field, long, at, u64::MAX) {
                    Size::Known => self.enter(at),
                    Size::Follows => self.read(State::LongHeader, 0, 8),
                    Size::Wrong => Step::Broken,
                }
            }
            State::Brand => {
                self.sequence = field == b"avis";
                self.leave(at)
            }
            State::ItemsEnd => {
                // A box without an end is whole when the items are.
                self.media |= self.outer.end == u64::MAX;
                if self.is_complete(at) { Step::Complete } else { self.leave(at) }
            }
            State::End => {
                self.movie |= &self.outer.kind == b"moov";
                self.media |= &self.outer.kind == b"mdat";
                if self.is_complete(at) { Step::Complete } else { self.read(State::Header, 0, BOX_HEADER) }
            }
            State::InnerHeader | State::InnerLongHeader => {
                let long = matches!(self.state, State::InnerLongHeader);
                match header(&mut self.inner, field, long, at, self.outer.end) {
                    Size::Known if &self.inner.kind == b"iloc" => {
                        self.read(State::IlocHeader, 0, ILOC_HEADER)
                    }
                    Size::Known => self.leave_inner(at),
                    Size::Follows => self.read(State::InnerLongHeader, 0, 8),
                    Size::Wrong => Step::Broken,
                }
            }
            // Locations that do not fit into their box are none.
            _ if at > self.inner.end => Step::Broken,
            State::IlocHeader => {
                let width = |nibble: u8| usize::from(nibble & 15);
                let version = field[0];
                let index = if version == 0 { 0 } else { width(field[5]) };
                let (offset, length, base) = (width(field[4] >> 4), width(field[4]), width(field[5] >> 4));
                if version > 2 || [offset, length, base, index].iter().any(|width| *width > 8) {
                    return Step::Broken;
                }
                self.iloc = Iloc { version, offset, length, base, index, ..Iloc::default() };
                self.read(State::IlocCount, 0, self.iloc.id())
            }
            State::IlocCount => {
                self.iloc.items = be(field);
                if self.iloc.items > 0 {
                    self.items_end.get_or_insert(0);
                }
                self.next_location(at)
            }
            State::IlocItem => {
                self.iloc.item(field);
                self.next_location(at)
            }
            State::IlocExtent => {
                let (offset, length) = field[self.iloc.index..].split_at(self.iloc.offset);
                if let Some(base) = self.iloc.base_offset {
                    // Without a length it is all that there is.
                    let end = base.saturating_add(be(offset)).saturating_add(be(length).max(1));
                    self.items_end = self.items_end.max(Some(end));
                }
                self.next_location(at)
            }
        }
    }
}

impl Avif {
    fn read(&mut self, state: State, skip: u64, read: usize) -> Step {
        self.state = state;
        Step::Read { skip, read }
    }

    fn enter(&mut self, at: u64) -> Step {
        match (&self.outer.kind, self.items_end) {
            (b"ftyp", _) => self.read(State::Brand, 0, 4),
            // Version and flags come before its first box.
            (b"meta", _) => self.read(State::InnerHeader, 4, BOX_HEADER),
            (b"mdat", Some(end)) if end <= self.outer.end => {
                self.read(State::ItemsEnd, end.saturating_sub(at), 0)
            }
            _ => self.leave(at),
        }
    }

    fn leave(&mut self, at: u64) -> Step {
        self.read(State::End, self.outer.end.saturating_sub(at), 0)
    }

    fn leave_inner(&mut self, at: u64) -> Step {
        if self.inner.end.saturating_add(BOX_HEADER as u64) > self.outer.end {
            return self.leave(at);
        }
        self.read(State::InnerHeader, self.inner.end.saturating_sub(at), BOX_HEADER)
    }

    fn next_location(&mut self, at: u64) -> Step {
        if self.iloc.extents > 0 && self.iloc.extent_size() > 0 {
            self.iloc.extents -= 1;
            return self.read(State::IlocExtent, 0, self.iloc.extent_size());
        }
        if self.iloc.items > 0 {
            self.iloc.items -= 1;
            return self.read(State::IlocItem, 0, self.iloc.item_size());
        }
        self.leave_inner(at)
    }

    fn is_complete(&self, at: u64) -> bool {
        self.items_end.is_some_and(|end| end <= at) && (!self.sequence || self.movie && self.media)
    }
}

impl Iloc {
    /// Width of an item's id, and of the count of items.
    fn id(&self) -> usize {
        if self.version < 2 { 2 } else { 4 }
    }

    /// Width of the field that says how an item is put together.
    fn method(&self) -> usize {
        if self.version == 0 { 0 } else { 2 }
    }

    fn item_size(&self) -> usize {
        self.id() + self.method() + 2 + self.base + 2
    }

    fn extent_size(&self) -> usize {
        self.index + self.offset + self.length
    }

    fn item(&mut self, field: &[u8]) {
        let (method, rest) = field[self.id()..].split_at(self.method());
        let (reference, rest) = rest.split_at(2);
        let (base, extents) = rest.split_at(self.base);
        // Other methods lie inside `meta`, other references in other files.
        let in_file = be(method).is_multiple_of(16) && be(reference) == 0;
        self.base_offset = in_file.then(|| be(base));
        self.extents = be(extents);
    }
}

enum Size {
    Known,
    Follows,
    Wrong,
}

/// Reads a box header that ends at `at`, in two steps where its size has eight bytes; `whole` is the end of
/// what the box is part of.
fn header(this: &mut BoxEnd, field: &[u8], long: bool, at: u64, whole: u64) -> Size {
    let size = if long {
        be(field)
    } else {
        this.kind.copy_from_slice(&field[4..]);
        be(&field[..4])
    };
    let read = if long { 16 } else { BOX_HEADER as u64 };
    this.end = match size {
        0 if !long => whole,
        1 if !long => return Size::Follows,
        size if size < read => return Size::Wrong,
        size => (at - read).saturating_add(size).min(whole),
    };
    Size::Known
}
