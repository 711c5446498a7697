//! Properties of [`Completeness`] over images that real encoders made, of every format and kind that callers
//! and providers send: whatever follows them and however they are cut into pieces, they are complete at the
//! same byte, and not before.

use proptest::prelude::*;

use super::Completeness;
use crate::domain::image::{MediaType, read_header};

struct Sample {
    name: &'static str,
    media_type: MediaType,
    bytes: Vec<u8>,
    /// Where it is complete.
    complete: usize,
    /// Cuts that leave a complete image behind: the ends of frames where nothing says how many there are.
    frames: Vec<usize>,
}

fn walk<'a>(media_type: MediaType, pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<usize> {
    let mut completeness = Completeness::new(media_type);
    pieces.into_iter().for_each(|piece| completeness.feed(piece));
    completeness.complete_at().map(|at| usize::try_from(at).unwrap())
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

macro_rules! fixture {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../../tests/it/fixtures/images/", $name)).to_vec())
    };
}

/// The end of each frame of a GIF, found by another way than the walker's: its data ends with a zero before
/// the next block.
fn gif_frames(bytes: &[u8]) -> Vec<usize> {
    let ends = |at: &usize| bytes[at - 1] == 0 && walk(MediaType::Gif, [&bytes[..*at]]) == Some(*at);
    (1..bytes.len()).filter(ends).collect()
}

fn samples() -> Vec<Sample> {
    let with = |(name, bytes): (&'static str, Vec<u8>), complete: usize| {
        let media_type = read_header(&bytes).unwrap_or_else(|why| panic!("{name}: {why}")).media_type;
        Sample { name, media_type, bytes, complete, frames: Vec::new() }
    };
    let png = |fixture: (&'static str, Vec<u8>)| {
        let complete = fixture.1.len() - 4;
        with(fixture, complete)
    };
    let whole = |fixture: (&'static str, Vec<u8>)| {
        let complete = fixture.1.len();
        with(fixture, complete)
    };
    let gif = |fixture: (&'static str, Vec<u8>)| {
        let frames = gif_frames(&fixture.1);
        Sample { frames, ..whole(fixture) }
    };
    let encoded = |name, format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::DynamicImage::new_rgb8(40, 30).write_to(&mut bytes, format).unwrap();
        (name, bytes.into_inner())
    };
    let mut samples = vec![
        png(encoded("rgb.png", image::ImageFormat::Png)),
        png(fixture!("palette.png")),
        png(fixture!("interlaced.png")),
        png(fixture!("animated.png")),
        whole(encoded("rgb.jpg", image::ImageFormat::Jpeg)),
        whole(fixture!("baseline.jpg")),
        whole(fixture!("progressive.jpg")),
        gif(fixture!("still.gif")),
        gif(fixture!("animated.gif")),
        whole(fixture!("lossy.webp")),
        whole(fixture!("lossless.webp")),
        whole(fixture!("still.avif")),
        whole(fixture!("alpha.avif")),
        whole(fixture!("animated.avif")),
    ];
    let (name, extended) = fixture!("extended.webp");
    let notes = find(&extended, b"EXIF");
    samples.push(with((name, extended), notes));
    let (name, animated) = fixture!("animated.webp");
    let notes = find(&animated, b"EXIF");
    samples.push(with((name, animated.clone()), notes + 8));
    // Without notes, and with the sizes that streaming encoders leave behind.
    for (name, size) in [
        ("animated, no notes", u32::try_from(notes - 8).unwrap()),
        ("animated, size of the file", u32::try_from(notes).unwrap()),
        ("animated, size 0", 0),
        ("animated, largest size", u32::MAX),
    ] {
        let mut bytes = animated[..notes].to_vec();
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        let starts = (0..notes - 4).filter(|at| &bytes[*at..at + 4] == b"ANMF").skip(1);
        let frames = if (1..u32::MAX).contains(&size) { Vec::new() } else { starts.collect() };
        samples.push(Sample { frames, ..whole((name, bytes)) });
    }
    for (name, size) in [("lossy, size 0", 0), ("lossy, largest size", u32::MAX), ("lossy, too large", 9_999)]
    {
        let (_, mut bytes) = fixture!("lossy.webp");
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(size));
        samples.push(whole((name, bytes)));
    }
    samples.extend(avif_shapes().into_iter().map(whole));
    samples
}

/// The still AVIF with its boxes written in other ways.
fn avif_shapes() -> Vec<(&'static str, Vec<u8>)> {
    let (_, still) = fixture!("still.avif");
    let media = find(&still, b"mdat") - 4;
    let locations = find(&still, b"iloc") - 4;
    // Version 0, widths of 4, 4, 0 and 0 bytes: one item, one extent.
    let offset = locations + 8 + 4 + 2 + 2 + 2 + 2 + 2;
    let moved = |bytes: &mut Vec<u8>, by: u32| {
        let field = &mut bytes[offset..offset + 4];
        let at = u32::from_be_bytes(field.try_into().unwrap());
        field.copy_from_slice(&(at + by).to_be_bytes());
    };
    let mut to_the_end = still.clone();
    to_the_end[media..media + 4].copy_from_slice(&[0; 4]);
    let mut long = still.clone();
    moved(&mut long, 8);
    let length = u64::try_from(still.len() - media + 8).unwrap();
    long.splice(media..media + 4, 1u32.to_be_bytes());
    long.splice(media + 8..media + 8, length.to_be_bytes());
    let mut spaced = still.clone();
    moved(&mut spaced, 8);
    spaced.splice(media..media, *b"\0\0\0\x08free");
    let mut lying = still;
    lying[media..media + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    vec![
        ("mdat to the end", to_the_end),
        ("mdat of 64 bits", long),
        ("free before mdat", spaced),
        ("mdat far too large", lying),
    ]
}

#[test]
fn real_images_are_complete_where_their_data_ends() {
    for sample in samples() {
        let Sample { name, media_type, bytes, complete, .. } = &sample;
        assert_eq!(walk(*media_type, [&bytes[..]]), Some(*complete), "{name}");
        assert_eq!(walk(*media_type, bytes.chunks(1)), Some(*complete), "{name}, byte by byte");
    }
}

#[test]
fn every_cut_is_told() {
    for Sample { name, media_type, bytes, complete, frames } in samples() {
        for cut in 0..bytes.len() {
            let expected = match cut {
                cut if cut >= complete => Some(complete),
                cut if frames.contains(&cut) => Some(cut),
                // Where nothing says how much is to come, bytes that begin no frame belong to none.
                _ => None,
            };
            assert_eq!(walk(media_type, [&bytes[..cut]]), expected, "{name} cut at {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn frames_are_counted_as_their_encoder_did() {
    let frames = |name| samples().into_iter().find(|sample| sample.name == name).unwrap().frames.len();
    assert_eq!((frames("still.gif"), frames("animated.gif")), (1, 3));
    assert_eq!((frames("animated, size 0"), frames("animated, no notes")), (2, 0));
}

#[test]
fn a_gif_needs_no_trailer() {
    for sample in samples().iter().filter(|sample| sample.media_type == MediaType::Gif) {
        let end = sample.bytes.len() - 1;
        let bare = &sample.bytes[..end];
        for rest in [&b""[..], &[0; 300], b"\n", b"\x3a", &[0xff; 9]] {
            assert_eq!(walk(MediaType::Gif, [bare, rest]), Some(end), "{} {rest:?}", sample.name);
        }
    }
}

/// What has the shape of an image and no image data in it is not complete.
#[test]
fn frames_without_a_picture_are_not_complete() {
    for (media_type, bytes) in [
        (MediaType::Png, &b"\x89PNG\r\n\x1a\n\0\0\0\0IEND\xaeB`\x82"[..]),
        (MediaType::Jpeg, b"\xff\xd8\xff\xd9"),
        (MediaType::Jpeg, b"\xff\xd8\xff\xe1\0\x08Ex\xff\xda\xff\xd9"),
        (MediaType::Gif, b"GIF89a\x01\0\x01\0\0\0\0;"),
        (MediaType::Webp, b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0"),
        (MediaType::Avif, b"\0\0\0\x10ftypavif\0\0\0\0\0\0\0\x0cmeta\0\0\0\0\0\0\0\x08mdat"),
    ] {
        assert_eq!(walk(media_type, [bytes]), None, "{media_type:?}");
    }
}

const TYPES: [(MediaType, &[u8]); 5] = [
    (MediaType::Png, b"\x89PNG\r\n\x1a\n\0\0\0\0IDAT"),
    (MediaType::Jpeg, b"\xff\xd8\xff\xda\0\x02"),
    (MediaType::Webp, b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0"),
    (MediaType::Gif, b"GIF89a\x01\0\x01\0\0\0\0"),
    (MediaType::Avif, b"\0\0\0\x10ftypavif\0\0\0\0\0\0\xff\xffmeta\0\0\0\0\0\0\xff\0iloc\x02\0\0\0\x88\x88"),
];

/// The time grows with the bytes and with nothing else: tens of megabytes of what makes each walker stop most
/// often.
#[test]
fn long_images_take_no_longer_than_their_bytes() {
    let started = std::time::Instant::now();
    for (media_type, head) in TYPES {
        for filler in [
            &[0][..],
            &[0xff],
            &[0, 1],
            &[0, 0, 0, 1],
            &[0, 0, 0, 8, b'f', b'r', b'e', b'e'],
            b"ANMF\0\0\0\0",
        ] {
            let body = filler.repeat(4 * 1024 * 1024 / filler.len());
            walk(media_type, [head].into_iter().chain(body.chunks(7)));
        }
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts.zip(cuts.iter().copied().chain([bytes.len()])).map(|(from, to)| &bytes[from..to]).collect()
}

proptest! {
    #[test]
    fn whatever_follows_changes_nothing(
        which in any::<prop::sample::Index>(),
        trailing in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let samples = samples();
        let Sample { name, media_type, bytes, complete, frames } = which.get(&samples);
        // Where nothing says that it is the last, what begins like a frame is one.
        let open = *media_type == MediaType::Webp && !frames.is_empty();
        prop_assume!(!(open && trailing.first() == Some(&b'A')));
        let all = [&bytes[..], &trailing].concat();
        prop_assert_eq!(walk(*media_type, pieces(&all, &cuts)), Some(*complete), "{}", name);
    }

    #[test]
    fn pieces_do_not_matter(
        which in 0..TYPES.len(),
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(b',')], 0..400),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        headless in any::<bool>(),
    ) {
        let (media_type, head) = TYPES[which];
        let all = if headless { bytes } else { [head, &bytes].concat() };
        let whole = walk(media_type, [&all[..]]);
        prop_assert_eq!(walk(media_type, pieces(&all, &cuts)), whole);
        prop_assert!(whole.is_none_or(|at| at <= all.len()));
    }

    #[test]
    fn damaged_images_do_no_harm(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let samples = samples();
        let sample = which.get(&samples);
        let mut bytes = sample.bytes.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let complete = walk(sample.media_type, [&bytes[..]]);
        prop_assert!(complete.is_none_or(|at| at <= bytes.len()));
    }
}
