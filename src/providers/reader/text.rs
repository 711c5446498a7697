//! The text of an answer without the images that stand in it. Every string, and the running text of a chat, is read here: a
//! run of base64 that begins as an image does is decoded on the way, and a mark takes its place, by which it is found.

use super::inline::{BrokenImage, ImageWriter, is_symbol, sniff};
use super::{Images, MARK};
use crate::domain::image::MediaType;

/// After so many symbols it is decided whether a run is an image.
const SNIFFED: usize = 24;
/// …or after so many bytes, if some of them are escaped.
const SNIFFED_ESCAPED: usize = 3 * SNIFFED;
/// A run of no more than this that turns out to be no whole image is text again.
const RETAINED: usize = 64 * 1024;
/// The longest text that is kept of one string; what is beyond is dropped.
const MAX_TEXT: usize = 4 * 1024 * 1024;
/// How far back the head of a `data:` URI is looked for.
const MAX_HEAD: usize = 128;
/// White space beyond this much keeps a connection alive, and is no text.
const MAX_BLANK: usize = 256;
/// A token that may yet become an image is held back no longer than this.
const HELD_BACK: usize = 512;

/// Reads one text, in any pieces.
#[derive(Default)]
pub struct TextReader {
    visible: Vec<u8>,
    /// How much white space stands at its end.
    blank: usize,
    /// How much of it was given out already.
    released: usize,
    /// Where the run of symbols at its end begins, while it may be an image.
    token: Option<usize>,
    run: Option<Box<Run>>,
}

/// A run of base64 that is an image.
struct Run {
    image: ImageWriter,
    /// What it looked like, as long as it may have to be text again.
    raw: Vec<u8>,
    /// Whether a blank stands for a plus sign.
    mending: bool,
    /// What stands between symbols: an escape that is not whole yet.
    escape: Vec<u8>,
    padded: bool,
    /// The white space after the last symbol.
    gap: Gap,
    /// How long the line is so far, and how long the first one was that white space ended.
    line: usize,
    first_line: Option<usize>,
}

/// White space in a run.
#[derive(Clone, Copy, PartialEq)]
enum Gap {
    None,
    /// The end of a line as long as the first one.
    Line,
    Other,
}

/// Base64 is wrapped into lines no longer than this.
const MAX_LINE: usize = 256;

impl TextReader {
    /// Takes the next bytes of the text.
    pub fn feed(&mut self, bytes: &[u8], images: &mut Images) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match &mut self.run {
                Some(run) => {
                    let taken = run.take(rest);
                    if taken < rest.len() {
                        self.end_run(images);
                    }
                    &rest[taken..]
                }
                None => self.plain(rest, images),
            };
        }
    }

    /// Takes text up to the beginning of an image; what is left.
    fn plain<'b>(&mut self, bytes: &'b [u8], images: &mut Images) -> &'b [u8] {
        for (at, &byte) in bytes.iter().enumerate() {
            if !(is_symbol(byte) || byte == b'%') {
                self.token = None;
                self.show(byte);
                continue;
            }
            let boundary = self.visible.last().is_none_or(|last| !(is_symbol(*last) || *last == b'%'));
            if boundary {
                self.token = Some(self.visible.len());
            }
            self.show(byte);
            let Some(start) = self.token.filter(|start| self.visible.len() - start >= SNIFFED) else {
                continue;
            };
            let symbols = without_percent(&self.visible[start..]);
            if symbols.len() < SNIFFED && self.visible.len() - start < SNIFFED_ESCAPED {
                continue;
            }
            self.token = None;
            if let Some(media_type) = sniff(&symbols) {
                self.begin_run(start, media_type, images);
                return &bytes[at + 1..];
            }
        }
        &[]
    }

    fn show(&mut self, byte: u8) {
        self.blank = if byte.is_ascii_whitespace() { self.blank + 1 } else { 0 };
        if self.visible.len() < MAX_TEXT && self.blank <= MAX_BLANK {
            self.visible.push(byte);
            // Nobody but we set marks.
            if self.visible.ends_with(MARK.as_bytes()) {
                self.visible.truncate(self.visible.len() - MARK.len());
                self.released = self.released.min(self.visible.len());
                self.visible.push(b'?');
            }
        }
    }

    fn begin_run(&mut self, start: usize, media_type: MediaType, images: &Images) {
        let symbols = self.visible.split_off(start);
        let head = head(&self.visible);
        self.visible.truncate(head);
        // Some of it may have been given out.
        self.released = self.released.min(head);
        let image = ImageWriter::new(media_type, &images.spool);
        let (raw, escape) = (Vec::new(), Vec::new());
        let mut run = Run {
            image,
            raw,
            mending: images.mending,
            escape,
            padded: false,
            gap: Gap::None,
            line: 0,
            first_line: None,
        };
        run.take(&symbols);
        self.run = Some(Box::new(run));
    }

    /// The run is over: a whole image leaves its mark, anything else is text again, as far as it was retained.
    fn end_run(&mut self, images: &mut Images) {
        let Some(mut run) = self.run.take() else { return };
        run.image.end();
        self.token = None;
        if run.image.complete() {
            let mark = images.mark(run.image);
            self.visible.extend_from_slice(mark.as_bytes());
            return;
        }
        images.broken = Some(BrokenImage::Cut);
        if run.raw.len() <= RETAINED {
            self.visible.extend_from_slice(&run.raw);
        }
    }

    /// Lets the spool have what should not stay in memory.
    pub async fn settle(&mut self) {
        if let Some(run) = &mut self.run {
            run.image.settle().await;
        }
    }

    /// The text that has come since the last call and cannot become an image any more.
    pub fn release(&mut self) -> String {
        let held = self.token.map_or(self.visible.len(), |start| head(&self.visible[..start]));
        let open = self.visible[self.released..]
            .iter()
            .rposition(|byte| byte.is_ascii_whitespace() || b"()[]<>\"'`".contains(byte))
            .map_or(self.released, |at| self.released + at + 1);
        let held =
            if self.visible.len() - open.min(held) > HELD_BACK { self.visible.len() } else { open.min(held) };
        self.give(held)
    }

    /// The rest of the text: it has ended.
    pub fn end(&mut self, images: &mut Images) -> String {
        self.end_run(images);
        let rest = self.give(self.visible.len());
        self.visible.clear();
        (self.released, self.token) = (0, None);
        rest
    }

    /// The rest of a text that broke off: of half a word nothing is known, so only its images count, unless it is `whole` all the
    /// same.
    pub fn broken_off(&mut self, images: &mut Images, whole: fn(&str) -> bool) -> Option<String> {
        let rest = self.end(images);
        if whole(&rest) {
            return Some(rest);
        }
        let last = rest.rfind(MARK)?;
        Some(rest[..last + MARK.len()].to_owned())
    }

    fn give(&mut self, to: usize) -> String {
        let to = to.max(self.released);
        // Never through the middle of a character.
        let piece = match std::str::from_utf8(&self.visible[self.released..to]) {
            Err(error) if error.error_len().is_none() && to < self.visible.len() + 4 => {
                &self.visible[self.released..self.released + error.valid_up_to()]
            }
            _ => &self.visible[self.released..to],
        };
        self.released += piece.len();
        String::from_utf8_lossy(piece).into_owned()
    }
}

impl Run {
    /// Takes what belongs to the run; how much that was.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.escape.is_empty() && !self.padded {
                let symbols =
                    bytes[at..].iter().position(|byte| !is_symbol(*byte)).unwrap_or(bytes.len() - at);
                if symbols > 0 {
                    // After a whole image and a gap that is no end of a line these are words.
                    if self.gap == Gap::Other && self.image.complete() {
                        break;
                    }
                    self.gap = Gap::None;
                    self.line += symbols;
                    self.image.symbols(&bytes[at..at + symbols]);
                    at += symbols;
                    continue;
                }
            }
            if !self.other(bytes[at]) {
                break;
            }
            at += 1;
        }
        if self.raw.len() <= RETAINED {
            self.raw.extend_from_slice(&bytes[..at]);
        }
        at
    }

    /// Whether a byte that is no symbol, or part of an escape, belongs to the run.
    fn other(&mut self, byte: u8) -> bool {
        match (self.escape.as_slice(), byte) {
            ([], b'=') => self.padded = true,
            ([], b'%' | b'\\') => self.escape.push(byte),
            ([], b' ') if self.mending && !self.padded && !self.image.complete() => self.image.symbols(b"+"),
            ([], byte) if byte.is_ascii_whitespace() => self.space(byte),
            ([b'\\'], b'n' | b'r' | b't') => {
                self.escape.clear();
                self.space(if byte == b't' { b' ' } else { b'\n' });
            }
            ([b'\\'], b'/') => return self.escaped(b'/'),
            ([b'%'], byte) if byte.is_ascii_hexdigit() => self.escape.push(byte),
            ([b'%', high], low) if low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default();
                let byte = u8::try_from(digit(*high) * 16 + digit(low)).unwrap_or_default();
                return self.escaped(byte);
            }
            _ => return false,
        }
        true
    }

    /// White space: the end of a line, perhaps.
    fn space(&mut self, byte: u8) {
        if self.line > 0 {
            let first = *self.first_line.get_or_insert(self.line);
            let even = matches!(byte, b'\n' | b'\r') && self.line == first && first <= MAX_LINE;
            self.gap = if even { Gap::Line } else { Gap::Other };
            self.line = 0;
        }
    }

    /// The same for a byte that was escaped.
    fn escaped(&mut self, byte: u8) -> bool {
        self.escape.clear();
        match byte {
            b'=' => self.padded = true,
            byte if byte.is_ascii_whitespace() => self.space(byte),
            byte if is_symbol(byte) && !self.padded => {
                self.line += 1;
                self.image.symbols(&[byte]);
            }
            _ => return false,
        }
        true
    }
}

/// Where the head of a `data:` URI, or a bare `base64,`, begins that these bytes end with; their end when there is none.
fn head(visible: &[u8]) -> usize {
    if visible.last() != Some(&b',') {
        return visible.len();
    }
    let from = visible.len().saturating_sub(MAX_HEAD);
    let tail = visible[from..].to_ascii_lowercase();
    let within =
        |at: usize| tail[at..].iter().all(|byte| !byte.is_ascii_whitespace() && !b"\"'`()<>".contains(byte));
    let found = memchr::memmem::rfind(&tail, b"data:").or_else(|| memchr::memmem::rfind(&tail, b"base64,"));
    found.filter(|at| within(*at)).map_or(visible.len(), |at| from + at)
}

/// Symbols of a token in which some are percent-encoded.
fn without_percent(token: &[u8]) -> Vec<u8> {
    let mut symbols = Vec::with_capacity(token.len());
    let mut rest = token;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            symbols.push(*first);
        } else if let [high, low, others @ ..] = others
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            symbols.push(u8::try_from(high * 16 + low).unwrap_or_default());
            rest = others;
        }
    }
    symbols
}
