//! Removes bytes that no row points to any more. Whether one does is not known here: the caller marks the bytes, looks at the
//! rows while the mark keeps everybody from taking them in hand, and only then erases.

use futures_util::TryStreamExt;
use object_store::{Error, ObjectStoreExt};

use super::hand::Condemned;
use super::{BlobError, Blobs, derived_keys, path};
use crate::domain::clock::Millis;

/// What became of the wish to erase something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    /// It is not here any more.
    Gone,
    /// Somebody has written it lately, at this moment, and its row may be on the way: ask again.
    TooYoung(Millis),
}

impl Blobs {
    /// Marks bytes that may have to go: until the mark is dropped nobody takes them in hand. `None` when somebody has them in
    /// hand just now.
    pub fn condemn(&self, sha256: &str) -> Option<Condemned> {
        self.hands.condemn(sha256)
    }

    /// Removes what was condemned, with all that was made of it, unless it was written after `untouched_since`: other processes' hands are not seen from
    /// here, but they write anew what they rely on.
    pub async fn erase(
        &self,
        condemned: Condemned,
        untouched_since: Option<Millis>,
    ) -> Result<Erased, BlobError> {
        let path = path(condemned.sha256());
        match self.store.head(&path).await {
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(found) => {
                let written = found.last_modified.timestamp_millis();
                if untouched_since.is_some_and(|since| written > since.0) {
                    return Ok(Erased::TooYoung(Millis(written)));
                }
                self.remove(&path).await?;
            }
        }
        for derived in derived_keys(condemned.sha256()) {
            self.remove(&derived).await?;
        }
        Ok(Erased::Gone)
    }

    pub(super) async fn remove(&self, path: &object_store::path::Path) -> Result<(), BlobError> {
        match self.store.delete(path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Up to `limit` hashes that begin with this byte and were written before that moment: what may have been forgotten.
    pub async fn old(&self, first: u8, before: Millis, limit: usize) -> Result<Vec<String>, BlobError> {
        let folder = object_store::path::Path::from(format!("sha256/{first:02x}"));
        let mut listing = self.store.list(Some(&folder));
        let mut old = Vec::new();
        while let Some(found) = listing.try_next().await? {
            let name = found.location.filename().unwrap_or_default();
            let whole = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
            if whole && found.last_modified.timestamp_millis() < before.0 {
                old.push(name.to_owned());
                if old.len() >= limit {
                    break;
                }
            }
        }
        Ok(old)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::blobs::Place;

    const PICTURE: &[u8] = &[
        137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 1, 0, 0, 0, 1, 8, 6, 0, 0, 0,
        31, 21, 196, 137, 0, 0, 0, 13, 73, 68, 65, 84, 120, 156, 99, 248, 207, 192, 240, 31, 0, 5, 0, 1, 255,
        137, 153, 61, 29, 0, 0, 0, 0, 73, 69, 78, 68, 174, 66, 96, 130,
    ];

    #[tokio::test]
    async fn bytes_go_once_nobody_has_them_in_hand_and_only_when_old_enough() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(Place::folder(folder.path())).await.unwrap();
        let saved = blobs.put(Bytes::from_static(PICTURE)).await.unwrap();
        let sha256 = saved.sha256.clone();
        let first = u8::from_str_radix(&sha256[..2], 16).unwrap();
        let ever = Millis(i64::MAX);
        assert!(blobs.condemn(&sha256).is_none(), "its row is not written yet");
        drop(saved);
        let condemned = blobs.condemn(&sha256).unwrap();
        let young = blobs.erase(condemned, Some(Millis(0))).await.unwrap();
        assert!(matches!(young, Erased::TooYoung(written) if written > Millis(0)), "{young:?}");
        assert_eq!(blobs.old(first, Millis(0), 10).await.unwrap(), Vec::<String>::new());
        assert_eq!(blobs.old(first, ever, 10).await.unwrap(), std::slice::from_ref(&sha256));
        for _ in 0..2 {
            let condemned = blobs.condemn(&sha256).unwrap();
            assert_eq!(blobs.erase(condemned, None).await.unwrap(), Erased::Gone);
        }
        assert!(blobs.read(&sha256).await.is_err());
        assert_eq!(blobs.old(first, ever, 10).await.unwrap(), Vec::<String>::new());
    }

    /// The race: one lets go of bytes while another is given the same ones.
    #[tokio::test]
    async fn bytes_that_come_while_they_are_erased_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(Place::folder(folder.path())).await.unwrap();
        let sha256 = blobs.put(Bytes::from_static(PICTURE)).await.unwrap().sha256;
        let condemned = blobs.condemn(&sha256).unwrap();
        let mut coming = Box::pin(blobs.put(Bytes::from_static(PICTURE)));
        assert!(futures_util::poll!(&mut coming).is_pending(), "it waits for the end of the erasing");
        assert_eq!(blobs.erase(condemned, None).await.unwrap(), Erased::Gone);
        let saved = coming.await.unwrap();
        assert_eq!(blobs.read(&saved.sha256).await.unwrap(), PICTURE);
    }
}
