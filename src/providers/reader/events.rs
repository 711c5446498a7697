//! Reads server-sent events from any pieces: LF, CRLF or CR, comments, a byte-order mark, an end without a blank line. The data
//! of an event is read as it comes and never held, so that an event may be as long as the images in it.

use super::Images;
use super::json::JsonReader;
use super::text::TextReader;
use super::{Limits, Part};

/// The longest name of a field or event.
const MAX_NAME: usize = 256;

/// Reads events, in any pieces.
pub struct EventReader {
    limits: Limits,
    lines: usize,
    place: Place,
    /// Whether the last byte was a CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    name: Vec<u8>,
    data: Data,
    /// The document reader of all events: the running text of a chat goes through them.
    json: JsonReader,
    parts: Vec<Part>,
    /// Whether the stream said that it was over.
    done: bool,
}

/// Where in a line the next byte stands.
enum Place {
    /// In the name of the field.
    Field(Vec<u8>),
    /// Behind the colon, where one blank is left out.
    Value(Field, bool),
}

#[derive(Clone, Copy, PartialEq)]
enum Field {
    Data,
    Event,
    Other,
}

/// What the data of the event in hand is.
enum Data {
    /// There is none.
    None,
    /// Nothing but white space yet.
    Blank,
    Json,
    /// Text, and whether a line of it has ended.
    Text(Box<TextReader>, bool),
}

impl EventReader {
    /// Whether the data of an event is just coming.
    pub fn in_data(&self) -> bool {
        matches!(self.place, Place::Value(Field::Data, _))
    }

    /// A reader that takes so much.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lines: 0,
            place: Place::Field(Vec::new()),
            after_cr: false,
            name: Vec::new(),
            data: Data::None,
            json: JsonReader::default(),
            parts: Vec::new(),
            done: false,
        }
    }

    /// Takes the next bytes; an error when the stream has too many lines: what came before can still be taken.
    pub fn feed(&mut self, bytes: &[u8], images: &mut Images) -> Result<(), String> {
        let mut rest = bytes;
        while let Some((&first, others)) = rest.split_first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = others;
                continue;
            }
            if matches!(first, b'\n' | b'\r') {
                self.lines += 1;
                if self.lines > self.limits.lines {
                    return Err(format!("a stream of more than {} lines", self.limits.lines));
                }
                self.after_cr = first == b'\r';
                self.end_line(images);
                rest = others;
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            self.line(&rest[..end], images);
            rest = &rest[end..];
        }
        Ok(())
    }

    /// The events that are whole.
    pub fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }

    /// Whether the stream has said that it is over.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Lets the spool have what should not stay in memory.
    pub async fn settle(&mut self) {
        self.json.settle().await;
        if let Data::Text(text, _) = &mut self.data {
            text.settle().await;
        }
    }

    /// The bytes have ended: what was not closed by a blank line counts all the same. Whether they ended in a document.
    pub fn end(&mut self, images: &mut Images) -> bool {
        let cut = if matches!(self.data, Data::Json) { self.json.end(images) } else { false };
        self.end_event(images);
        let rest = self.json.running.end(images);
        if !rest.is_empty() {
            self.parts.push(Part::running(rest));
        }
        cut
    }

    /// A piece of a line without its end.
    fn line(&mut self, bytes: &[u8], images: &mut Images) {
        let mut rest = bytes;
        if let Place::Field(name) = &mut self.place {
            // A document on a line of its own, without the field's name.
            if name.is_empty() && rest.first() == Some(&b'{') {
                self.begin_value(Field::Data);
                return self.line(bytes, images);
            }
            let colon = memchr::memchr(b':', rest);
            if name.len() < MAX_NAME {
                name.extend_from_slice(&rest[..colon.unwrap_or(rest.len())]);
            }
            let Some(colon) = colon else { return };
            let field = field(name);
            if field == Field::Event {
                self.name.clear();
            }
            // One vendor's way of sending an error: the field is called so instead of the event.
            if name == b"error" {
                self.name = b"error".to_vec();
            }
            self.begin_value(field);
            rest = &rest[colon + 1..];
        }
        let Place::Value(field, begun) = &mut self.place else { return };
        if !*begun && let Some((first, others)) = rest.split_first() {
            *begun = true;
            if *first == b' ' {
                rest = others;
            }
        }
        match *field {
            Field::Data => self.data(rest, images),
            Field::Event if self.name.len() < MAX_NAME => self.name.extend_from_slice(rest),
            Field::Event | Field::Other => {}
        }
    }

    fn begin_value(&mut self, field: Field) {
        self.place = Place::Value(field, false);
        match (field, &mut self.data) {
            (Field::Data, Data::None) => self.data = Data::Blank,
            (Field::Data, Data::Text(_, ended)) => *ended = true,
            _ => {}
        }
    }

    fn data(&mut self, bytes: &[u8], images: &mut Images) {
        let mut rest = bytes;
        if matches!(self.data, Data::Blank) {
            rest = rest.trim_ascii_start();
            match rest.first() {
                None => return,
                // What says that it is over begins with a bracket, too.
                Some(b'[') if !matches!(rest.get(1), None | Some(b'D' | b'd' | b'N' | b'n')) => {
                    self.data = Data::Json;
                }
                Some(b'{' | b'"') => self.data = Data::Json,
                Some(_) => self.data = Data::Text(Box::default(), false),
            }
        }
        match &mut self.data {
            Data::Json => self.json.feed(rest, images),
            Data::Text(text, ended) => {
                if std::mem::take(ended) {
                    text.feed(b"\n", images);
                }
                text.feed(rest, images);
            }
            Data::None | Data::Blank => {}
        }
    }

    fn end_line(&mut self, images: &mut Images) {
        let place = std::mem::replace(&mut self.place, Place::Field(Vec::new()));
        match place {
            Place::Field(name) if name.is_empty() || name == "\u{feff}".as_bytes() => self.end_event(images),
            // A line feed inside a document is white space, or stands in a string.
            Place::Value(Field::Data, _) if matches!(self.data, Data::Json) => self.json.feed(b"\n", images),
            Place::Field(name) if field(&name) == Field::Data => self.begin_value(Field::Data),
            _ => return,
        }
        self.place = Place::Field(Vec::new());
    }

    fn end_event(&mut self, images: &mut Images) {
        let name = String::from_utf8_lossy(&std::mem::take(&mut self.name)).into_owned();
        match std::mem::replace(&mut self.data, Data::None) {
            Data::None | Data::Blank => {}
            Data::Json => {
                // What the event does not close does not go on in the next.
                self.json.end(images);
                let documents = self.json.take();
                self.parts.extend(documents.into_iter().map(|json| Part::json(name.clone(), json)));
            }
            Data::Text(mut text, _) => {
                let text = text.end(images);
                if matches!(text.trim().to_ascii_lowercase().as_str(), "[done]" | "[none]") {
                    self.done = true;
                } else {
                    self.parts.push(Part::text(name, text));
                }
            }
        }
    }
}

fn field(name: &[u8]) -> Field {
    match name.strip_prefix("\u{feff}".as_bytes()).unwrap_or(name) {
        b"data" | b"error" => Field::Data,
        b"event" => Field::Event,
        // Comments, ids, retry times and fields of the future.
        _ => Field::Other,
    }
}
