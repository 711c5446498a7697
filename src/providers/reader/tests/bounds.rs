//! What ends a reading: floods, silence, cuts; and what is large.

use super::*;

#[test]
fn errors_are_read_in_every_framing() {
    for body in [
        "event: error\ndata: upstream is down\n\n",
        "error: upstream is down\n\n",
        "event: error\ndata: \"upstream is down\"\n\ndata: [DONE]\n\n",
    ] {
        let (found, _) = whole(body.as_bytes());
        let said = |part: &Part| {
            part.event == "error"
                && (part.text.contains("down") || part.json == Some(json!("upstream is down")))
        };
        assert!(found.parts.iter().any(said), "{body}: {:?}", found.parts);
    }
}

/// Floods end, whatever they are made of, and what came before them counts.
#[test]
fn floods_end_and_lose_nothing() {
    let limits = Limits { total: 200_000, lines: 1_000, ..AMPLE };
    for flood in [
        "data: x\n\n",
        "data: {}\r\n\r\n",
        ": still here\n\n",
        ":\n",
        "\r",
        "data: not a word is ended",
        "\n",
    ] {
        let body = format!("data: {{\"a\":1}}\n\n{}", flood.repeat(100_000));
        let (found, answer) = read_pieces(&[], vec![Ok(body.into())], limits);
        assert_eq!(found.parts[0].json, Some(json!({"a": 1})), "{flood:?}");
        assert!(!answer.whole && answer.cut.is_some(), "{flood:?}");
    }
}

/// A spooled answer is a stream that must not be asked after its end.
#[tokio::test]
async fn a_short_answer_is_read_again_from_the_spool() {
    for text in ["", "x", "short", "fifteen bytes!!", "sixteen bytes!!!"] {
        let spool = spool();
        let kept = crate::spool::Spooled::of(Bytes::from_static(text.as_bytes()), &spool);
        let body = kept.stream().map(|piece| piece.map_err(|error| error.to_string()));
        let (answer, evidence) =
            read((Head::default(), body), AMPLE, spool.buffer(), &spool, &mut Gathered::default(), None)
                .await;
        assert_eq!(
            (answer.text.as_str(), evidence.body.len(), answer.whole),
            (text, text.len() as u64, true)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_and_comments_are_silence() {
    let ends_after = async |body: futures_util::stream::BoxStream<'static, Result<Bytes, String>>| {
        let (begun, spool) = (Instant::now(), spool());
        let (answer, _) =
            read((Head::default(), body), AMPLE, spool.buffer(), &spool, &mut Gathered::default(), None)
                .await;
        (begun.elapsed().as_secs(), answer.cut.unwrap())
    };
    let silent = futures_util::stream::pending().boxed();
    assert_eq!(ends_after(silent).await, (90, "the answer fell silent".to_owned()));
    let every = |text: &'static [u8]| {
        futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_secs(15)).await;
            Some((Ok(Bytes::from_static(text)), ()))
        })
        .boxed()
    };
    let comments =
        every(b": still here, and nothing to say, for as long as anybody cares to listen to it\n\n");
    assert_eq!(ends_after(comments).await, (300, "the stream sent no event".to_owned()));
    let blanks = every(b"   ");
    assert_eq!(ends_after(blanks).await, (900, "the answer does not end".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_flood_lets_others_work() {
    let pieces = futures_util::stream::repeat(Ok(Bytes::from(":\n".repeat(100)))).boxed();
    let (spool, mut gathered) = (spool(), Gathered::default());
    let flooded = read((Head::default(), pieces), AMPLE, spool.buffer(), &spool, &mut gathered, None);
    let mut turns = 0_u32;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    let (answer, _) = tokio::select! { ended = flooded => ended, () = others => unreachable!() };
    assert!(answer.cut.unwrap().starts_with("a stream of more than"));
    assert!(turns > 3, "{turns}");
}

/// All images of an answer.
struct Kept(Vec<Arc<InlineImage>>);
impl Interpreter for Kept {
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
        self.0.extend(images.in_text(&strings(&part.json.unwrap())));
        Vec::new()
    }
    fn conclude(&mut self, _: &Answer) -> Result<Progress, ProviderError> {
        unreachable!()
    }
}

/// An image that is too large for memory goes to a file, and is the same.
#[tokio::test]
async fn a_large_image_goes_through_the_spool() {
    let mut noise = 1_u32;
    let pixel = |_, _| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = noise.to_be_bytes();
        image::Rgb([a, b, c])
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(1_200, 1_200, pixel).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let image = bytes.into_inner();
    assert!(image.len() > 4_000_000);
    let body = json!({"data": [{"b64_json": STANDARD.encode(&image)}]}).to_string();
    let spool = spool();
    let mut kept = Kept(Vec::new());
    let pieces: Vec<_> =
        body.as_bytes().chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let body = futures_util::stream::iter(pieces);
    let (_, evidence) = read((Head::default(), body), AMPLE, spool.buffer(), &spool, &mut kept, None).await;
    let kept = kept.0.pop().unwrap();
    assert!(kept.bytes.in_memory().is_none() && evidence.body.in_memory().is_none());
    assert_eq!((kept.bytes.len(), kept.sha256.clone()), (image.len() as u64, digest(&image)));
    let read: Vec<u8> = kept.bytes.stream().map(|piece| piece.unwrap().to_vec()).concat().await;
    assert_eq!(digest(&read), kept.sha256);
}

#[test]
fn what_was_whole_before_a_cut_counts() {
    let images: Vec<Vec<u8>> = (0..3).map(|seed| png(seed, 40)).collect();
    let document = json!({"data": images.iter().map(|image| json!({"b64_json": STANDARD.encode(image)})).collect::<Vec<_>>()}).to_string();
    let at = |nth: usize| document.match_indices("b64_json").nth(nth).unwrap().0;
    for (cut, expected) in [
        (at(0) + 30, 0),
        (at(1) - 3, 1),
        (at(1) + 40, 1),
        (at(2) - 2, 2),
        (document.len() - 3, 3),
        (document.len(), 3),
    ] {
        for broken in [false, true] {
            let body = Ok(Bytes::copy_from_slice(&document.as_bytes()[..cut]));
            let pieces = if broken { vec![body, Err("reset".to_owned())] } else { vec![body] };
            let (found, answer) = read_pieces(&[], pieces, AMPLE);
            assert_eq!(found.images.len(), expected, "cut at {cut}");
            assert_eq!(answer.whole, cut == document.len() && !broken);
        }
    }
    // Inside the base64, behind the image's own end.
    let cut = document.rfind('"').unwrap() - 1;
    assert_eq!(whole(&document.as_bytes()[..cut]).0.images.len(), 3);
    // Half a word is none.
    let (found, _) = whole(br#"{"data":{"task_id":"abc-1","url":"https://x.example/a"#);
    assert_eq!(found.parts[0].json, Some(json!({"data": {"task_id": "abc-1"}})));
    let (found, _) = whole(br#"{"code":200,"data":{"task_id":"abc-"#);
    assert_eq!(found.parts[0].json, Some(json!({"code": 200, "data": {}})));
}

/// Runs without a blank may be longer than what is held back of a running text before it is given out.
#[test]
fn an_image_behind_a_long_run_of_text() {
    let image = STANDARD.encode(png(7, 8));
    let (first, rest) = image.split_at(10);
    for contents in [
        [
            format!("{}data:image/png;base64,", "\u{751f}".repeat(200)),
            image.clone(),
            "\u{3002}".into(),
            "fin".into(),
        ],
        [format!("{}{first}", "\u{3002}".repeat(300)), rest.to_owned(), "\u{3002}".into(), String::new()],
    ] {
        let event = |content| {
            format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": content}}]}))
        };
        let body = contents.map(event).concat() + "data: [DONE]\n\n";
        assert_eq!(whole(body.as_bytes()).0.images, [digest(&png(7, 8))]);
    }
}

/// Images that a page has are its own: a logo, an advertisement.
#[test]
fn a_page_with_a_logo_is_no_result() {
    let spool = spool();
    let head =
        Head { headers: vec![("content-type".into(), "text/html".into())], status: 200, retry_after: None };
    let logo = STANDARD.encode(png(3, 24));
    let page = format!(
        "<!DOCTYPE html>\n<html><body><h1>Back soon</h1><img src=\"data:image/png;base64,{logo}\"></body></html>"
    );
    let body = futures_util::stream::iter([Ok::<_, String>(Bytes::from(page.clone()))]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(download((head, body), &spool)).0.is_err());
    assert_eq!(whole(page.as_bytes()).0.images, [""; 0]);
}

/// Long keys count as text does: they do not fill the memory, and what comes before them is read.
#[test]
fn keys_are_no_way_around_the_limits() {
    let body = format!("{{\"a\":1,{}\"z\":1}}", format!("\"{}\":1,", "k".repeat(60_000)).repeat(800));
    let (_, answer) = whole(body.as_bytes());
    let told = answer.json.map_or(0, |json| json.to_string().len());
    assert!(told < 32 * 1024 * 1024, "{told}");
}
