//! Pieces by themselves: what reading a stream, finding pictures in an answer, checking a request and signing cost.
//! `script/bench micro`.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use easel::domain::request::GenerateRequest;
use easel::domain::webhook::{Secret, signatures};
use easel::providers::piapi::links;
use easel::providers::sse::{Limits, Reader};

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

/// A recorded stream, in pieces as a network hands them out.
#[divan::bench(args = [64, 1_400, 16_384])]
fn sse_reader(bencher: Bencher, piece: usize) {
    let limits = Limits { event: 1 << 20, total: 1 << 24, lines: 100_000 };
    bencher.counter(BytesCount::of_slice(STREAM)).bench(|| {
        let mut reader = Reader::new(limits);
        let mut events = 0;
        for piece in black_box(STREAM).chunks(piece) {
            if reader.feed(piece).is_err() {
                break;
            }
            while reader.take().is_some() {
                events += 1;
            }
        }
        events
    });
}

/// The pictures of an answer with an echo, progress links and decoys.
#[divan::bench]
fn extraction(bencher: Bencher) {
    let (ours, answer) = (["a little cat in the snow"], PROGRESS.repeat(20) + PICTURE);
    bencher.counter(BytesCount::of_str(&answer)).bench(|| links::pictures(black_box(&answer), &ours));
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
