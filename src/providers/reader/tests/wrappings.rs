//! Any wrapping of an answer, any pieces and any cut: the same images.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Cut into any pieces an answer reads the same.
    #[test]
    fn any_pieces_read_the_same(
        spelling in 0usize..16, events in any::<bool>(), side in 4u32..60,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let image = png(9, side);
        let document = json!({"data": [{"b64_json": spellings(&image)[spelling].1, "x": "é😀"}], "n": 1.5}).to_string();
        let body = if events { format!("event: done\r\ndata: {document}\r\n\r\n") } else { document };
        let (once, first) = whole(body.as_bytes());
        let (again, second) = in_pieces(body.as_bytes(), &cuts);
        prop_assert_eq!(&once.parts, &again.parts);
        prop_assert_eq!(&once.images, &again.images);
        prop_assert_eq!(again.images, [digest(&image)]);
        prop_assert_eq!(first.whole, second.whole);
    }

    /// Any cut behind the last image keeps it.
    #[test]
    fn any_cut_behind_the_last_image_keeps_it(side in 4u32..40, at in any::<prop::sample::Index>(), tail in "[ a-z\":{},]{0,40}") {
        let image = png(7, side);
        let document = format!("{{\"data\":[{{\"b64_json\":\"{}\"}}],\"rest\":\"{}\"", STANDARD.encode(&image), tail.replace('"', ""));
        let end = document.find("\"}]").unwrap() + 1;
        let cut = end + at.index(document.len() - end + 1);
        prop_assert_eq!(whole(&document.as_bytes()[..cut]).0.images, [digest(&image)]);
    }

    #[test]
    fn lines_end_in_every_way(body in "(data: ?[a-zé\u{1f600}]{0,6}|event: b|: c|\r|\n|\r\n){0,40}", cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let body = format!("data: x\n{body}");
        prop_assert_eq!(in_pieces(body.as_bytes(), &cuts).0.parts, whole(body.as_bytes()).0.parts);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), start in 0usize..6) {
        let starts: [&[u8]; 6] = [b"", b"{\"a\":\"", b"data: {\"a\":[", b"[1,", b"iVBORw0KGgoAAAANSUhEUgAA", b"\x1f\x8b\x08"];
        let body = [starts[start], &bytes].concat();
        whole(&body);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            whole(json!({"a": text}).to_string().as_bytes());
        }
    }
}
