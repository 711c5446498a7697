//! Images that stand inside an answer, decoded from base64 as it arrives: bytes go to the spool, so that an answer of any
//! size takes the same memory. Both alphabets, with or without padding, percent-encoded, escaped or wrapped into lines.

use std::sync::Arc;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};

use crate::domain::image::{Completeness, Header, MediaType, NotAPicture, magic, read_header};
use crate::spool::{Spool, SpoolBuffer, Spooled};

/// The most bytes one image may have: four times what 4096 × 4096 pixels take at worst.
pub const MAX_IMAGE: u64 = 256 * 1024 * 1024;
/// What a header's reader is given at most: a camera's or an editor's notes can stand before the size.
const MAX_HEADER: usize = 4 * 1024 * 1024;

/// The standard alphabet; what comes is translated to it. The last symbol may carry bits that mean nothing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An image that stood inside an answer, whole.
#[derive(Debug, Clone)]
pub struct InlineImage {
    /// Its bytes.
    pub bytes: Spooled,
    /// SHA-256 of them, in hex.
    pub sha256: String,
    /// What its header says.
    pub header: Header,
}

impl PartialEq for InlineImage {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

/// Why something that began as an image is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenImage {
    /// It ends before the image does.
    Cut,
    /// It has more bytes than [`MAX_IMAGE`].
    TooLong,
    /// Its header cannot be read, or says that it is larger than any image that is kept.
    Unacceptable(NotAPicture),
}

/// An image being decoded.
pub struct ImageWriter {
    buffer: SpoolBuffer,
    digest: Sha256,
    completeness: Completeness,
    too_large: bool,
    /// Base64 symbols that do not make a group of four yet.
    group: Vec<u8>,
    decoded: Vec<u8>,
}

impl ImageWriter {
    /// A writer for an image of this type.
    pub fn new(media_type: MediaType, spool: &Spool) -> Self {
        Self {
            buffer: spool.buffer(),
            digest: Sha256::new(),
            completeness: Completeness::new(media_type),
            too_large: false,
            group: Vec::with_capacity(4),
            decoded: Vec::new(),
        }
    }

    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() as u64 > MAX_IMAGE {
            self.too_large = true;
            return;
        }
        self.buffer.push(bytes);
        self.digest.update(bytes);
        self.completeness.feed(bytes);
    }

    /// Adds symbols of either base64 alphabet; there is nothing else among them.
    pub fn symbols(&mut self, symbols: &[u8]) {
        let mut rest = symbols;
        while !self.group.is_empty() && self.group.len() < 4 {
            let Some((first, others)) = rest.split_first() else { return };
            self.group.push(standard(*first));
            rest = others;
        }
        let group = std::mem::take(&mut self.group);
        self.groups(&group);
        let whole = rest.len() / 4 * 4;
        if memchr::memchr2(b'-', b'_', &rest[..whole]).is_some() {
            let translated: Vec<u8> = rest[..whole].iter().copied().map(standard).collect();
            self.groups(&translated);
        } else {
            self.groups(&rest[..whole]);
        }
        self.group = group;
        self.group.clear();
        self.group.extend(rest[whole..].iter().copied().map(standard));
    }

    /// Decodes groups of four symbols, or what is left at the end.
    fn groups(&mut self, symbols: &[u8]) {
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        // One symbol alone says nothing; all others are of the alphabet.
        if LENIENT.decode_vec(symbols, &mut decoded).is_ok() {
            self.bytes(&decoded);
        }
        self.decoded = decoded;
    }

    /// Whether the image is complete, whatever may still follow.
    pub fn complete(&mut self) -> bool {
        self.completeness.complete_at().is_some()
    }

    /// Lets the spool have what should not stay in memory.
    pub async fn settle(&mut self) {
        self.buffer.settle().await;
    }

    /// The base64 has ended.
    pub fn end(&mut self) {
        let rest = std::mem::take(&mut self.group);
        self.groups(&rest);
    }

    /// The image.
    ///
    /// # Errors
    /// When it is cut, larger than any that is kept, or its header cannot be read.
    pub async fn finish(self) -> Result<Arc<InlineImage>, BrokenImage> {
        if self.too_large {
            return Err(BrokenImage::TooLong);
        }
        let cut = self.buffer.lossy() || self.completeness.complete_at().is_none();
        let bytes = self.buffer.finish().await;
        let head = match bytes.in_memory() {
            Some(bytes) => bytes.clone(),
            None => bytes.head(MAX_HEADER).await.map_err(|_| BrokenImage::Cut)?,
        };
        let header = match read_header(&head) {
            // One that is too large will not come to be acceptable by its end.
            Err(too_large @ NotAPicture::TooLarge { .. }) => {
                return Err(BrokenImage::Unacceptable(too_large));
            }
            _ if cut => return Err(BrokenImage::Cut),
            header => header.map_err(BrokenImage::Unacceptable)?,
        };
        Ok(Arc::new(InlineImage { bytes, sha256: hex::encode(self.digest.finalize()), header }))
    }
}

/// Whether a byte is a symbol of either base64 alphabet.
pub fn is_symbol(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

fn standard(symbol: u8) -> u8 {
    match symbol {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

/// The type of the image that begins with these base64 symbols.
pub fn sniff(symbols: &[u8]) -> Option<MediaType> {
    let symbols: Vec<u8> = symbols.iter().copied().map(standard).collect();
    let first = LENIENT.decode(&symbols[..symbols.len() / 4 * 4]).ok()?;
    magic(&first)
}
