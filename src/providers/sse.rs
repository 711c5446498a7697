//! Reads server-sent events from any chunking: LF, CRLF or CR, comments, a byte-order mark, an end without a blank line.
//! Bytes that are not UTF-8 become replacement characters: one broken emoji must not lose a paid picture.

use futures_util::{Stream, StreamExt};

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its `event:` name; empty when it has none.
    pub name: String,
    /// Its `data:` lines, joined by line feeds.
    pub data: String,
}

/// A line or event longer than is read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an event of more than {0} bytes")]
pub struct TooLong(pub usize);

/// Splits bytes into events.
#[derive(Debug)]
pub struct Reader {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// Whether the last byte was a CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    first_line: bool,
    most: usize,
    ready: std::collections::VecDeque<Event>,
}

impl Reader {
    /// A reader that takes events of up to `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            after_cr: false,
            first_line: true,
            most,
            ready: std::collections::VecDeque::new(),
        }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        for &byte in bytes {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                self.after_cr = byte == b'\r';
                self.end_line();
            } else if self.line.len() + self.event.data.len() < self.most {
                self.line.push(byte);
            } else {
                return Err(TooLong(self.most));
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
    /// An event was too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// The events of a stream of bytes, up to its end or its first error.
pub fn events<S, B, E>(bytes: S, most: usize) -> impl Stream<Item = Result<Event, Cut<E>>> + Unpin
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: AsRef<[u8]>,
{
    let state = (bytes, Reader::new(most), None::<Cut<E>>, false);
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
                Some(Ok(piece)) => cut = reader.feed(piece.as_ref()).err().map(Cut::TooLong),
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

    fn read_in(pieces: &[&[u8]]) -> Vec<Event> {
        let mut reader = Reader::new(1 << 20);
        for piece in pieces {
            reader.feed(piece).unwrap();
        }
        reader.end();
        std::iter::from_fn(|| reader.take()).collect()
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
        let mut reader = Reader::new(10);
        assert_eq!(reader.feed(b"data: 1234567890"), Err(TooLong(10)));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(body in "(data: ?[a-zé\u{1f600}]{0,6}|event: b|: c|\r|\n|\r\n){0,40}", cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let bytes = body.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read_in(&pieces), read_in(&[bytes]));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read_in(&[&bytes]);
        }
    }
}
