//! What is made of a picture that is here: smaller ones, and the same in another type.
//!
//! A smaller one is kept as `derived/aa/DIGEST/wWIDTH`, of its picture's own type, for the widths of [`WIDTHS`] alone:
//! [`derived_keys`] names all that can exist, so that they are collected with their picture. One that is missing is made
//! again when somebody asks. A picture in another type is a picture of its own under its own digest.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};

use super::desk::Work;
use super::{BlobError, Blobs, Saved, path};
use crate::domain::image::{Header, MediaType};

/// The widths pictures are made smaller to, in pixels.
pub const WIDTHS: [u32; 5] = [64, 128, 256, 512, 1024];

/// One of the forms a picture is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form<'a> {
    /// SHA-256 of the picture's bytes, in hex.
    pub sha256: &'a str,
    /// Made smaller to so many pixels across; one of [`WIDTHS`].
    pub width: Option<u32>,
}

impl<'a> From<&'a str> for Form<'a> {
    fn from(sha256: &'a str) -> Self {
        Self { sha256, width: None }
    }
}

impl Form<'_> {
    /// Its own `ETag`.
    pub fn etag(&self) -> String {
        match self.width {
            None => format!("\"{}\"", self.sha256),
            Some(width) => format!("\"{}-w{width}\"", self.sha256),
        }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> Path {
        match self.width {
            None => path(self.sha256),
            Some(width) => derived(self.sha256, width),
        }
    }
}

/// Where everything lies that can have been made of a picture.
pub fn derived_keys(sha256: &str) -> impl Iterator<Item = Path> {
    WIDTHS.into_iter().map(move |width| derived(sha256, width))
}

fn derived(sha256: &str, width: u32) -> Path {
    Path::from(format!("derived/{}/{sha256}/w{width}", sha256.get(..2).unwrap_or("00")))
}

impl Blobs {
    /// Makes sure that a smaller form of a picture is here, and answers with its length. `None`: it cannot be made.
    pub async fn make_smaller(&self, form: Form<'_>, header: Header) -> Result<Option<u64>, BlobError> {
        if let Some(length) = self.length(form).await? {
            return Ok(Some(length));
        }
        // Not while the picture is being erased: what is made of it would be left over.
        let _hold = self.hands.take(form.sha256).await;
        let bytes = self.read(form.sha256).await?;
        let work = Work { into: header.media_type, width: form.width };
        match self.desk.make(header, bytes, work).await {
            Ok(made) => {
                let length = made.len() as u64;
                self.keep_made(form, made, header.media_type).await?;
                Ok(Some(length))
            }
            Err(error) => {
                tracing::info!(sha256 = form.sha256, %error, "a picture cannot be made smaller");
                Ok(None)
            }
        }
    }

    /// Keeps what was made of a picture, unless another replica has erased the picture meanwhile: it does not see who has
    /// it in hand here, and what is written after it has removed all that was made would be left over.
    async fn keep_made(&self, form: Form<'_>, made: Bytes, media_type: MediaType) -> Result<(), BlobError> {
        self.write(&form.path(), made, media_type).await?;
        if let Err(gone @ Error::NotFound { .. }) = self.store.head(&path(form.sha256)).await {
            self.remove(&form.path()).await?;
            return Err(gone.into());
        }
        Ok(())
    }

    /// A picture that is here, in another type, which is then here too; the first one stays.
    pub async fn convert(&self, picture: &Saved, into: MediaType) -> Result<Saved, BlobError> {
        let bytes = self.read(&picture.sha256).await?;
        let made = self.desk.make(picture.header, bytes, Work { into, width: None }).await?;
        self.put(made).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::{Erased, Place};

    /// Two replicas: one makes a picture smaller while the other erases it.
    #[tokio::test]
    async fn what_is_made_of_a_picture_does_not_outlive_it() {
        let folder = tempfile::tempdir().unwrap();
        let one = Blobs::open(Place::folder(folder.path())).await.unwrap();
        let two = Blobs::open(Place::folder(folder.path())).await.unwrap();
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(100, 100).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let saved = one.put(bytes.into_inner().into()).await.unwrap();
        let form = Form { sha256: &saved.sha256, width: Some(64) };
        let made = one.make_smaller(form, saved.header).await.unwrap().unwrap();
        assert_eq!(one.length(form).await.unwrap(), Some(made));
        let small = one.store.get(&form.path()).await.unwrap().bytes().await.unwrap();
        let erased = two.erase(two.condemn(form.sha256).unwrap(), None).await.unwrap();
        assert_eq!((erased, one.length(form).await.unwrap()), (Erased::Gone, None));
        let late = one.keep_made(form, small, saved.header.media_type).await;
        assert!(matches!(late, Err(BlobError::Storage(Error::NotFound { .. }))), "{late:?}");
        assert_eq!(one.length(form).await.unwrap(), None, "nothing is left over");
    }

    #[test]
    fn everything_that_can_be_made_of_a_picture_is_named() {
        let digest = "abcdef";
        let keys: Vec<_> = derived_keys(digest).collect();
        assert_eq!(keys[0].as_ref(), "derived/ab/abcdef/w64");
        for width in WIDTHS {
            let form = Form { sha256: digest, width: Some(width) };
            assert!(keys.contains(&form.path()));
            assert_eq!(form.etag(), format!("\"abcdef-w{width}\""));
        }
        assert_eq!(Form::from(digest).path(), path(digest));
    }
}
