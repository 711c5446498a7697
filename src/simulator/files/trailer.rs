//! What a result file has around or after its image: bytes that every viewer skips.

use bytes::Bytes;

use super::encode::noise;
use crate::simulator::faults::{Faults, FileWrap};

const CAMERA: usize = 320;

/// The file with what was asked for.
pub fn wrap(file: Bytes, faults: &Faults) -> Bytes {
    let Some(words) = &faults.file_wrap else { return file };
    let mut bytes = file.to_vec();
    for word in &words.0 {
        match word {
            FileWrap::Newline => bytes.push(b'\n'),
            FileWrap::TwoZeroes => bytes.extend_from_slice(&[0; 2]),
            FileWrap::Zeroes => bytes.extend_from_slice(&[0; 300]),
            FileWrap::Camera => bytes.extend_from_slice(&camera()),
            FileWrap::Mp4 => bytes.extend_from_slice(&motion()),
            FileWrap::NoTerminator if bytes.starts_with(b"GIF8") && bytes.ends_with(&[0x3b]) => {
                bytes.pop();
            }
            // Said when it is sent, or of another type.
            FileWrap::Gzip | FileWrap::GzipUnlabelled | FileWrap::NoTerminator => {}
        }
    }
    bytes.into()
}

/// A phone's trailer: a name, bytes of its own, and markers inside that end nothing.
fn camera() -> Vec<u8> {
    let mut trailer = b"\0\0\x01\x0aImage_UTC_Data1700000000000SEFHk\0\0\0".to_vec();
    trailer.extend_from_slice(&[0xff, 0xd8, 0xff, 0xe1]);
    trailer.extend_from_slice(&noise(CAMERA - trailer.len() - 4));
    trailer.extend_from_slice(b"SEFT");
    trailer
}

/// A motion photo's video: two boxes of an MP4.
fn motion() -> Vec<u8> {
    let kind = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
    let data = noise(2_000);
    let length = u32::try_from(data.len() + 8).unwrap_or(0).to_be_bytes();
    [kind.as_slice(), &length, b"mdat", &data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_have_their_lengths() {
        assert_eq!(camera().len(), CAMERA);
        assert_eq!(motion().len(), 24 + 8 + 2_000);
    }
}
