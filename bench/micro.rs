//! Pieces by themselves: what reading a stream, finding pictures in an answer, checking a request and signing cost.
//! `script/bench micro`.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use easel::domain::request::GenerateRequest;
use easel::domain::webhook::{Secret, signatures};
use easel::providers::reader::{Answer, Images, Interpreter, Limits, Part, read};
use easel::providers::{Own, Progress, ProviderError, Signal, links};
use easel::spool::{Head, Spool};

const STREAM: &[u8] = include_bytes!("../src/providers/piapi/fixtures/gpt4o_image_stream_success_01.sse");
/// One of many progress lines of an answer, and the picture it ends with.
const PROGRESS: &str =
    include_str!("../src/providers/piapi/fixtures/gpt4o_content_cometapi_progress_link.txt");
const PICTURE: &str = "\n> ID: `task_01`\n\n![gen_01](https://filesystem.site/cdn/20260101/abc.png)\n\n[download](https://filesystem.site/cdn/download/20260101/abc.png)\n";
const REQUEST: &str = r#"{"prompt": "a little cat in the snow, seen from far away", "model": "flux-schnell", "size": "1024x1024",
    "n": 2, "seed": 7, "images": [{"url": "https://example.com/cat.png"}], "metadata": {"project": "cats", "run": "17"},
    "routing": {"max_cost_usd": "0.1"}, "webhook": {"url": "https://example.com/hook", "events": ["task.succeeded"]}}"#;

fn main() {
    divan::main();
}

/// Counts the events of a stream.
#[derive(Default)]
struct Counted(usize);

impl Interpreter for Counted {
    fn part(&mut self, _: Part, _: &Images) -> Vec<Signal> {
        self.0 += 1;
        Vec::new()
    }

    fn conclude(&mut self, _: &Answer) -> Result<Progress, ProviderError> {
        unreachable!("nobody asks")
    }
}

/// Reads an answer that comes in pieces of this length.
#[expect(clippy::expect_used, reason = "without a place to work in there is nothing to measure")]
fn read_all(bencher: Bencher, body: &'static [u8], piece: usize) {
    let folder = tempfile::tempdir().expect("a place to work in");
    let spool = Spool::open(folder.path(), u64::MAX).expect("a place to work in");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a place to work in");
    let minute = std::time::Duration::from_mins(1);
    let limits = Limits {
        total: 1 << 30,
        lines: 100_000,
        idle: minute,
        silent: minute,
        whole: minute,
        mending: false,
    };
    bencher.counter(BytesCount::of_slice(body)).bench_local(|| {
        let pieces = black_box(body).chunks(piece).map(|piece| Ok(bytes::Bytes::from_static(piece)));
        let answer = (Head::default(), futures_util::stream::iter(pieces));
        let mut counted = Counted::default();
        runtime.block_on(read(answer, limits, spool.buffer(), &spool, &mut counted, None));
        counted.0
    });
}

/// A recorded stream, in pieces as a network hands them out.
#[divan::bench(args = [64, 1_400, 16_384])]
fn event_reader(bencher: Bencher, piece: usize) {
    read_all(bencher, STREAM, piece);
}

/// An image of so many bytes inside a JSON answer.
#[divan::bench(args = [65_536, 1_048_576, 16_777_216])]
fn inline_image(bencher: Bencher, bytes: usize) {
    use base64::Engine;
    // A PNG by its first bytes, whose one chunk of pixels is that long.
    let mut image = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x04\0\0\0\x04\0\x08\x02\0\0\0\0\0\0\0".to_vec();
    image.extend_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
    image.extend_from_slice(b"IDAT");
    image.extend((0..bytes + 4).map(|at| at.to_le_bytes()[0]));
    image.extend_from_slice(b"\0\0\0\0IEND\xaeB`\x82");
    let base64 = base64::engine::general_purpose::STANDARD.encode(&image);
    let body = format!("{{\"created\":1,\"data\":[{{\"b64_json\":\"{base64}\"}}]}}");
    read_all(bencher, Box::leak(body.into_boxed_str()).as_bytes(), 16_384);
}

/// The images of an answer with an echo, progress links and decoys.
#[divan::bench]
fn extraction(bencher: Bencher) {
    let request =
        GenerateRequest { prompt: "a little cat in the snow".to_owned(), ..GenerateRequest::default() };
    let (own, answer) = (Own::of(&request), PROGRESS.repeat(20) + PICTURE);
    bencher.counter(BytesCount::of_str(&answer)).bench(|| links::addresses(black_box(&answer), &own));
}

/// A request as a caller sends it, read and checked.
#[divan::bench]
fn validation(bencher: Bencher) {
    bencher.counter(BytesCount::of_str(REQUEST)).bench(|| {
        let request: Option<GenerateRequest> = serde_json::from_str(black_box(REQUEST)).ok();
        request.map(|request| request.validate())
    });
}

/// A webhook of so many bytes, signed.
#[divan::bench(args = [1_024, 16_384])]
fn signing(bencher: Bencher, length: usize) {
    let (secrets, body) = ([Secret::derive(&[7; 32], "tenant", 0)], "x".repeat(length));
    bencher
        .counter(BytesCount::new(length))
        .bench(|| signatures(black_box(&secrets), "evt_01k9", 1_795_000_000, black_box(&body)));
}
