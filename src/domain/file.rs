//! Input images in custody: uploaded, sent inside a request, or fetched because only we could reach them.

use super::clock::Millis;
use super::id::FileId;
use super::image::Header;

/// An input image whose bytes are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id.
    pub id: FileId,
    /// Whose it is.
    pub tenant: String,
    /// SHA-256 of its bytes in hex, which is also where they lie.
    pub sha256: String,
    /// What its header says.
    pub header: Header,
    /// Its length.
    pub bytes: u64,
    /// When it came.
    pub created_at: Millis,
}
