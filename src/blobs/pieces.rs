//! A picture's bytes on their way out of the store.

use std::io::{Seek, SeekFrom};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{GetResult, GetResultPayload};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

/// How much of a file is read at once: the store's own pieces of 8 KiB cost a change of threads each.
const PIECE: usize = 128 * 1024;

/// The bytes that were asked for, in order. A file that ends before its time ends them early.
pub(super) fn of(result: GetResult) -> BoxStream<'static, object_store::Result<Bytes>> {
    let range = result.range.clone();
    let failed = |error| object_store::Error::Generic { store: "folder", source: Box::new(error) };
    match result.payload {
        GetResultPayload::File(mut file, _) => match file.seek(SeekFrom::Start(range.start)) {
            Ok(_) => {
                let mut file = File::from_std(file);
                file.set_max_buf_size(PIECE);
                let pieces = ReaderStream::with_capacity(file.take(range.end - range.start), PIECE);
                pieces.map_err(failed).boxed()
            }
            Err(error) => stream::once(async move { Err(failed(error)) }).boxed(),
        },
        GetResultPayload::Stream(bytes) => bytes,
    }
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;
    use object_store::path::Path;
    use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

    use super::*;

    #[tokio::test]
    async fn what_is_asked_for_comes_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let (name, bytes) =
            (Path::from("picture"), (0..=250_u8).cycle().take(3 * PIECE + 7).collect::<Bytes>());
        store.put(&name, bytes.clone().into()).await.unwrap();
        let length = bytes.len();
        for (from, to) in [(0, length), (0, 1), (1, PIECE + 1), (PIECE, 2 * PIECE), (length - 1, length)] {
            let range = GetRange::Bounded(from as u64..to as u64);
            let found =
                store.get_opts(&name, GetOptions { range: Some(range), ..GetOptions::default() }).await;
            let pieces: Vec<Bytes> = of(found.unwrap()).try_collect().await.unwrap();
            assert!(pieces.concat() == bytes[from..to], "{from}..{to}");
        }
    }
}
