//! Reads server-sent events from any chunking: LF, CRLF or CR, comments, a byte-order mark, an end without a blank line.
//! Bytes that are not UTF-8 become replacement characters: one broken emoji must not lose a paid picture. What is read of
//! one answer is bounded, so that no stream, however it is cut up, holds a worker or a core for long.

use futures_util::{Stream, StreamExt};

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its `event:` name; empty when it has none.
    pub name: String,
    /// Its `data:` lines, joined by line feeds.
    pub data: String,
}

/// How much of one answer is read. Counted and not timed: a burst is no offence, and a network hands out bursts of its own.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one event.
    pub event: usize,
    /// Bytes of all of it.
    pub total: usize,
    /// Lines of all of it: every event costs one or more, and so do comments and blank lines.
    pub lines: usize,
}

/// More than is read of one answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Excess {
    /// A line or event is too long.
    #[error("an event of more than {0} bytes")]
    Event(usize),
    /// The answer is too long.
    #[error("a stream of more than {0} bytes")]
    Total(usize),
    /// The answer has too many lines.
    #[error("a stream of more than {0} lines")]
    Lines(usize),
}

/// Splits bytes into events.
#[derive(Debug)]
pub struct Reader {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// Whether the last byte was a CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    first_line: bool,
    limits: Limits,
    /// Bytes and lines so far.
    bytes: usize,
    lines: usize,
    ready: std::collections::VecDeque<Event>,
}

impl Reader {
    /// A reader that takes so much.
    pub fn new(limits: Limits) -> Self {
        Self {
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            after_cr: false,
            first_line: true,
            limits,
            bytes: 0,
            lines: 0,
            ready: std::collections::VecDeque::new(),
        }
    }

    /// Takes the next bytes. After an excess the events before it can still be taken, and nothing more is to be fed.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Excess> {
        for &byte in bytes {
            self.bytes += 1;
            if self.bytes > self.limits.total {
                return Err(Excess::Total(self.limits.total));
            }
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                self.lines += 1;
                if self.lines > self.limits.lines {
                    return Err(Excess::Lines(self.limits.lines));
                }
                self.after_cr = byte == b'\r';
                self.end_line();
            } else if self.line.len() + self.event.data.len() < self.limits.event {
                self.line.push(byte);
            } else {
                return Err(Excess::Event(self.limits.event));
            }
        }
        Ok(())
    }

    /// The next whole event.
    pub fn take(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// The bytes have ended: what was not closed by a blank line counts all the same.
    pub fn end(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.end_event();
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&bytes);
        if std::mem::take(&mut self.first_line)
            && let Some(rest) = line.strip_prefix('\u{feff}')
        {
            line = rest.to_owned().into();
        }
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event.name),
            // Comments, ids, retry times and fields of the future.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            self.ready.push_back(event);
        }
    }
}

/// Why a stream of events ended early.
#[derive(Debug, thiserror::Error)]
pub enum Cut<E> {
    /// The bytes broke off.
    #[error("{0}")]
    Broken(E),
    /// It was too much.
    #[error(transparent)]
    Excess(#[from] Excess),
}

/// The events of a stream of bytes, up to its end or its first error.
pub fn events<S, B, E>(bytes: S, limits: Limits) -> impl Stream<Item = Result<Event, Cut<E>>> + Unpin
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: AsRef<[u8]>,
{
    let state = (bytes, Reader::new(limits), None::<Cut<E>>, false);
    Box::pin(futures_util::stream::unfold(state, |(mut bytes, mut reader, mut cut, mut over)| async move {
        loop {
            // Whole events that came before an error are given before it.
            if let Some(event) = reader.take() {
                return Some((Ok(event), (bytes, reader, cut, over)));
            }
            if let Some(cut) = cut.take() {
                return Some((Err(cut), (bytes, reader, None, true)));
            }
            if over {
                return None;
            }
            match bytes.next().await {
                Some(Ok(piece)) => cut = reader.feed(piece.as_ref()).err().map(Cut::Excess),
                Some(Err(error)) => cut = Some(Cut::Broken(error)),
                None => {
                    reader.end();
                    over = true;
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AMPLE: Limits = Limits { event: 1 << 20, total: usize::MAX, lines: usize::MAX };

    fn read_in(pieces: &[&[u8]]) -> Vec<Event> {
        let (events, excess) = read_within(AMPLE, pieces);
        assert_eq!(excess, None);
        events
    }

    /// The events of these pieces, up to the excess that ends them.
    fn read_within(limits: Limits, pieces: &[&[u8]]) -> (Vec<Event>, Option<Excess>) {
        let mut reader = Reader::new(limits);
        let excess = pieces.iter().find_map(|piece| reader.feed(piece).err());
        if excess.is_none() {
            reader.end();
        }
        (std::iter::from_fn(|| reader.take()).collect(), excess)
    }

    /// Cuts bytes into pieces.
    fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    fn data(text: &str) -> Event {
        Event { name: String::new(), data: text.to_owned() }
    }

    #[test]
    fn line_ends_comments_marks_and_missing_blank_lines() {
        let expected = vec![data("a"), Event { name: "x".into(), data: "b\nc".into() }];
        for body in [
            "data: a\n\nevent: x\ndata: b\ndata:c\n\n",
            "\u{feff}data: a\r\n\r\n: comment\r\nevent: x\r\ndata: b\r\nid: 7\r\ndata: c\r\n\r\n",
            "data: a\r\revent:x\rdata:b\rdata:c\r\r",
            ": hi\n\n\n\ndata: a\n\nretry: 5\n\nevent: x\ndata: b\ndata: c",
        ] {
            assert_eq!(read_in(&[body.as_bytes()]), expected, "{body:?}");
        }
    }

    #[test]
    fn broken_utf8_and_endless_lines() {
        assert_eq!(read_in(&[b"data: a\xff!\n\n"]), vec![data("a\u{fffd}!")]);
        let limits = Limits { event: 10, ..AMPLE };
        assert_eq!(read_within(limits, &[b"data: 1234567890"]).1, Some(Excess::Event(10)));
    }

    #[test]
    fn floods_end_whatever_they_are_made_of() {
        let limits = Limits { total: 1_000, lines: 100, ..AMPLE };
        for (flood, excess) in [
            ("data: x\n\n", Excess::Lines(100)),
            ("data: x\r\n\r\n", Excess::Lines(100)),
            (": still here, and nothing to say\n\n", Excess::Total(1_000)),
            (":\n", Excess::Lines(100)),
            ("\r", Excess::Lines(100)),
            ("data: not a word is ended", Excess::Total(1_000)),
        ] {
            let good = b"data: a picture\n\n".as_slice();
            let flood = flood.repeat(1_000);
            let (events, cut) = read_within(limits, &[good, flood.as_bytes()]);
            assert_eq!((&events[0], cut), (&data("a picture"), Some(excess)), "what came before counts");
        }
        // Exactly as much as is read is read.
        let body = "data: x\n\n".repeat(50);
        assert_eq!(read_within(limits, &[body.as_bytes()]), (vec![data("x"); 50], None));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(body in "(data: ?[a-zé\u{1f600}]{0,6}|event: b|: c|\r|\n|\r\n){0,40}", cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            prop_assert_eq!(read_in(&cut(body.as_bytes(), &cuts)), read_in(&[body.as_bytes()]));
        }

        #[test]
        fn any_split_is_cut_off_in_the_same_place(
            body in "(data: ?[a-zé\u{1f600}]{0,6}|event: b|: c|\r|\n|\r\n){0,40}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            event in 1_usize..20,
            total in 0_usize..200,
            lines in 0_usize..20,
        ) {
            let limits = Limits { event, total, lines };
            prop_assert_eq!(read_within(limits, &cut(body.as_bytes(), &cuts)), read_within(limits, &[body.as_bytes()]));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read_in(&[&bytes]);
        }
    }
}
