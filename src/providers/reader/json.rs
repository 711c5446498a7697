//! Reads JSON as providers send it: in any pieces, after a byte-order mark or other bytes, with raw control characters, several
//! documents after each other, or cut in the middle. What was whole before a cut counts; half a word never does.

use serde_json::{Map, Number, Value};

use super::Images;
use super::text::TextReader;
use crate::providers::links::ends_as_image;

/// Deeper values are passed over.
const MAX_DEPTH: usize = 128;
/// More values than this are not kept of one document.
const MAX_VALUES: usize = 400_000;
/// More text than this is not kept of one document.
const MAX_TEXT: usize = 32 * 1024 * 1024;
/// The longest key, and the longest number.
const MAX_WORD: usize = 1024;

/// Reads documents, in any pieces.
#[derive(Default)]
pub struct JsonReader {
    stack: Vec<Frame>,
    /// How many levels below the deepest that is kept.
    below: usize,
    values: usize,
    /// Bytes of text among the values.
    text: usize,
    token: Token,
    documents: Vec<Value>,
    /// The running text of a chat: its pieces are read as one text.
    pub running: TextReader,
}

enum Frame {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// What is being read.
#[derive(Default)]
enum Token {
    /// Nothing.
    #[default]
    Between,
    /// A number, `true`, or what is no JSON.
    Bare(Vec<u8>),
    Key(Vec<u8>, Escape),
    Text(Box<TextReader>, Escape),
    /// A piece of the running text.
    Running(Escape),
}

/// An escape in a string that is not whole yet.
#[derive(Default)]
struct Escape {
    bytes: Vec<u8>,
    /// The first half of a pair of surrogates.
    high: Option<u32>,
}

impl JsonReader {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8], images: &mut Images) {
        let mut rest = bytes;
        while let Some((&first, others)) = rest.split_first() {
            rest = match &mut self.token {
                Token::Between => {
                    self.between(first);
                    others
                }
                Token::Bare(word) => {
                    if first.is_ascii_alphanumeric() || b"+-._".contains(&first) {
                        if word.len() < MAX_WORD {
                            word.push(first);
                        }
                        others
                    } else {
                        self.end_bare();
                        rest
                    }
                }
                Token::Key(..) | Token::Text(..) | Token::Running(_) => self.string(rest, images),
            };
        }
    }

    /// The documents that are whole.
    pub fn take(&mut self) -> Vec<Value> {
        if self.stack.is_empty() {
            (self.values, self.text) = (0, 0);
        }
        std::mem::take(&mut self.documents)
    }

    /// Lets the spool have what should not stay in memory.
    pub async fn settle(&mut self) {
        if let Token::Text(text, _) = &mut self.token {
            text.settle().await;
        }
        self.running.settle().await;
    }

    /// The bytes have ended. Whether they ended inside a document: then what there is of it is among the documents.
    pub fn end(&mut self, images: &mut Images) -> bool {
        match std::mem::take(&mut self.token) {
            Token::Bare(word) => {
                self.token = Token::Bare(word);
                // A number may have had more digits.
                if self.stack.is_empty() {
                    self.end_bare();
                }
            }
            Token::Text(mut text, _) => {
                if let Some(text) = text.broken_off(images, ends_as_link) {
                    self.add(Value::String(text));
                }
            }
            Token::Running(_) => {
                let text = self.running.release();
                self.add(Value::String(text));
            }
            Token::Key(..) | Token::Between => {}
        }
        self.token = Token::Between;
        let cut = !self.stack.is_empty();
        while !self.stack.is_empty() {
            self.close();
        }
        self.below = 0;
        cut
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b'{' => self.open(Frame::Map(Map::new(), None)),
            b'[' => self.open(Frame::List(Vec::new())),
            b'}' | b']' => self.close(),
            b'"' => self.token = self.string_begins(),
            byte if byte.is_ascii_alphanumeric() || b"+-.".contains(&byte) => {
                self.token = Token::Bare(vec![byte]);
            }
            // A key without a value.
            b',' => {
                if let Some(Frame::Map(_, key)) = self.stack.last_mut() {
                    *key = None;
                }
            }
            // White space and colons say nothing that the rest does not; other bytes are no JSON.
            _ => {}
        }
    }

    fn string_begins(&self) -> Token {
        match self.stack.last() {
            Some(Frame::Map(_, None)) => Token::Key(Vec::new(), Escape::default()),
            Some(Frame::Map(_, Some(key))) if key == "content" && self.within("delta") => {
                Token::Running(Escape::default())
            }
            _ => Token::Text(Box::default(), Escape::default()),
        }
    }

    /// Whether the map in hand is the value of this key.
    fn within(&self, key: &str) -> bool {
        let outer = self.stack.len().checked_sub(2).and_then(|at| self.stack.get(at));
        matches!(outer, Some(Frame::Map(_, Some(name))) if name == key)
    }

    fn open(&mut self, frame: Frame) {
        if self.below > 0 || self.stack.len() >= MAX_DEPTH { self.below += 1 } else { self.stack.push(frame) }
    }

    fn close(&mut self) {
        if self.below > 0 {
            self.below -= 1;
            return;
        }
        let value = match self.stack.pop() {
            Some(Frame::Map(map, _)) => Value::Object(map),
            // Its objects were given out one by one.
            Some(Frame::List(list)) if self.stack.is_empty() && list.is_empty() => return,
            Some(Frame::List(list)) => Value::Array(list),
            None => return,
        };
        self.add(value);
    }

    /// A value is whole.
    fn add(&mut self, value: Value) {
        if self.below > 0 {
            return;
        }
        self.values += 1;
        self.text += value.as_str().map_or(0, str::len);
        if self.values > MAX_VALUES || self.text > MAX_TEXT {
            return;
        }
        let outermost = self.stack.len() == 1;
        match self.stack.last_mut() {
            None => self.documents.push(value),
            // A list of answers is an answer each.
            Some(Frame::List(_)) if outermost && value.is_object() => self.documents.push(value),
            Some(Frame::List(list)) => list.push(value),
            Some(Frame::Map(map, key)) => {
                if let Some(key) = key.take() {
                    map.insert(key, value);
                }
            }
        }
    }

    fn end_bare(&mut self) {
        let Token::Bare(word) = std::mem::take(&mut self.token) else { return };
        let word = String::from_utf8_lossy(&word);
        let value = match word.as_ref() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" | "NaN" | "Infinity" | "-Infinity" | "undefined" => Value::Null,
            word => match word.parse::<Number>() {
                Ok(number) => Value::Number(number),
                // A number beyond all numbers is still said.
                Err(_) if word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) => {
                    Value::String(word.to_owned())
                }
                Err(_) => return,
            },
        };
        self.add(value);
    }

    /// Takes bytes of the string in hand; what is left.
    fn string<'b>(&mut self, bytes: &'b [u8], images: &mut Images) -> &'b [u8] {
        let escape = match &mut self.token {
            Token::Key(_, escape) | Token::Text(_, escape) | Token::Running(escape) => escape,
            Token::Between | Token::Bare(_) => return bytes,
        };
        if !escape.bytes.is_empty() {
            let (meant, taken) = escape.take(bytes[0]);
            self.text(&meant, images);
            return &bytes[usize::from(taken)..];
        }
        let plain = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
        if escape.high.is_some() && bytes.first() != Some(&b'\\') {
            // Half a pair of surrogates is no character.
            escape.high = None;
            self.text("\u{fffd}".as_bytes(), images);
        }
        self.text(&bytes[..plain], images);
        match bytes.get(plain) {
            Some(b'\\') => {
                if let Token::Key(_, escape) | Token::Text(_, escape) | Token::Running(escape) =
                    &mut self.token
                {
                    escape.bytes.push(b'\\');
                }
            }
            Some(_) => self.end_string(images),
            None => return &[],
        }
        &bytes[plain + 1..]
    }

    fn text(&mut self, bytes: &[u8], images: &mut Images) {
        match &mut self.token {
            Token::Key(key, _) if key.len() < MAX_WORD => key.extend_from_slice(bytes),
            Token::Text(text, _) => text.feed(bytes, images),
            Token::Running(_) => self.running.feed(bytes, images),
            _ => {}
        }
    }

    fn end_string(&mut self, images: &mut Images) {
        match std::mem::take(&mut self.token) {
            Token::Key(key, _) => {
                self.text += key.len();
                if let Some(Frame::Map(_, name)) = self.stack.last_mut() {
                    *name = Some(String::from_utf8_lossy(&key).into_owned());
                }
            }
            Token::Text(mut text, _) => {
                let text = text.end(images);
                self.add(Value::String(text));
            }
            Token::Running(_) => {
                let text = self.running.release();
                self.add(Value::String(text));
            }
            Token::Between | Token::Bare(_) => {}
        }
    }
}

/// Whether half a string is a link to an image all the same: its ending says that nothing is missing.
fn ends_as_link(text: &str) -> bool {
    (text.starts_with("https://") || text.starts_with("http://"))
        && ends_as_image(text)
        && !text.contains(['?', '#', ' '])
}

impl Escape {
    /// Takes the next byte of an escape: what it means so far, and whether the byte was part of it.
    fn take(&mut self, byte: u8) -> (Vec<u8>, bool) {
        match self.bytes.as_slice() {
            [_] => match byte {
                b'u' => {
                    self.bytes.push(byte);
                    (Vec::new(), true)
                }
                byte => {
                    self.bytes.clear();
                    let meant = match byte {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 8,
                        b'f' => 12,
                        // A slash, a quote, or something that needs no escape.
                        other => other,
                    };
                    (vec![meant], true)
                }
            },
            _ if byte.is_ascii_hexdigit() => {
                self.bytes.push(byte);
                if self.bytes.len() < 6 {
                    return (Vec::new(), true);
                }
                let digits = String::from_utf8_lossy(&self.bytes[2..]).into_owned();
                self.bytes.clear();
                (self.unit(u32::from_str_radix(&digits, 16).unwrap_or_default()), true)
            }
            // Fewer than four digits: no escape at all.
            _ => (std::mem::take(&mut self.bytes), false),
        }
    }

    /// A unit of UTF-16.
    fn unit(&mut self, unit: u32) -> Vec<u8> {
        let code = match (self.high.take(), unit) {
            (_, 0xd800..0xdc00) => {
                self.high = Some(unit);
                return Vec::new();
            }
            (Some(high), 0xdc00..0xe000) => 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00),
            (_, unit) => unit,
        };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).to_string().into_bytes()
    }
}
