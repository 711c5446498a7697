//! PiAPI's gpt-4o-image: a chat completion whose streamed text ends in the link of a picture, if all goes well.

mod check;
mod frame;
mod tale;

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::Value;

use self::check::Order;
use self::frame::{Frame, Manner};
use self::tale::{End, Layout, Tale};
use super::dialect::Dialect;
use super::faults::{Endpoint, Faults, Sse, strip};
use super::files::{Commission, Format, Place};
use super::intake::{Desk, Glance, Post, Refusal, Ticket};
use super::jobs::Ending;
use super::ledger::{Outcome, Provider};
use super::play;
use super::sse::cut_at_start;
use super::untidy::{Input, Role};
use super::world::World;

/// $0.02 for a success, $0.00066 for an answer without a picture, nothing for an HTTP error.
const PICTURE_NANOS: i64 = 20_000_000;
const NO_PICTURE_NANOS: i64 = 660_000;
/// The seconds a generation takes, from and to.
const SECONDS: (f64, f64) = (15.0, 40.0);

/// The counter for chat completions.
pub struct Chat;

impl Desk for Chat {
    const ENDPOINT: Endpoint = Endpoint::Chat;
    const PROVIDER: Provider = Provider::Chat;
    const DIALECT: Dialect = Dialect::OpenAi;
    const CLOUDFLARE: bool = true;
    type Form = Value;
    type Order = Order;

    async fn read(post: &Post) -> Value {
        serde_json::from_slice(&post.body).unwrap_or(Value::Null)
    }

    fn glance(body: &Value) -> Glance {
        let prompt = check::text_of(body);
        Glance { n: check::count_in(&strip(&prompt)), prompt, correlation: None, note: None }
    }

    fn inputs(body: &Value) -> Vec<Input> {
        let parts = body.pointer("/messages/0/content").and_then(Value::as_array);
        let images = parts.into_iter().flatten().filter_map(|part| part.pointer("/image_url/url")?.as_str());
        images.map(|text| Input::text(Role::Image, text)).collect()
    }

    fn check(body: &Value) -> Result<Order, Refusal> {
        check::check(body)
    }

    async fn take(world: Arc<World>, ticket: Ticket, order: Order) -> Response {
        let Ticket { seq, faults, switch, .. } = ticket;
        let mut chance = world.chance(seq, "chat");
        let seeded = Manner::seeded(&mut chance);
        let manner = faults.style.map_or(seeded, Manner::of);
        let span = world.generation(&faults, chance.seconds(SECONDS.0, SECONDS.1));
        let end = end(&world, seq, &order, &faults, manner.layout);
        bill(&world, seq, &faults, &end);
        cut_at_start(&faults, &switch).await;
        let queue_lines = faults.queue_text.and_then(|lines| lines.or(20)).unwrap_or(0);
        let prompt = strip(&order.text).into_owned();
        let tale = Tale { prompt, size: order.size, n: order.n, inputs: order.inputs, queue_lines, end };
        let told = tale.tell(manner.layout, &mut chance);
        let frame = Frame {
            manner,
            hostile: faults.sse,
            cut: faults.cut,
            cut_by: faults.cut_by,
            span,
            created: world.now().0 / 1000,
        };
        let beats = frame.beats(&told, &mut chance);
        let headers =
            [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
        (StatusCode::OK, headers, play::body(beats, switch)).into_response()
    }
}

/// How the answer ends; pictures are ordered here.
fn end(world: &World, seq: u64, order: &Order, faults: &Arc<Faults>, layout: Layout) -> End {
    let said = |text: &Option<super::faults::Text>| text.as_ref().map(|text| text.0.clone());
    if faults.refuse {
        let prose = "I'm sorry, but I can't create that image because the request doesn't comply with our \
                     content policy. If you'd like, I can help with a different idea.";
        return End::Prose(said(&faults.message).unwrap_or_else(|| prose.to_owned()));
    }
    if faults.downgrade {
        let prose = "I used DALL-E 3 for this request since the native image tool is busy. Here is a \
                     description of the picture it would have made.";
        return End::Prose(said(&faults.message).unwrap_or_else(|| prose.to_owned()));
    }
    if faults.generation_failed || matches!(faults.ending(""), Ending::Failed(_)) {
        let reason = "This request may violate our content policies.";
        return End::Failed(said(&faults.reason).unwrap_or_else(|| reason.to_owned()));
    }
    if faults.sse == Some(Sse::ErrorEvent) {
        return End::Breaks;
    }
    let count = order.n.saturating_sub(faults.missing.unwrap_or(0));
    if faults.ending("") == Ending::NoImage || count == 0 {
        return End::Nothing;
    }
    let place = match layout {
        Layout::Relay302 | Layout::Chinese => "cdn",
        Layout::Piapi | Layout::Tricky => "files",
    };
    let pictures = world.commission(&Commission {
        seq,
        prompt: &order.text,
        caption: if order.inputs.is_empty() { "" } else { "edit" },
        size: order.size,
        format: Format::Png,
        count,
        ready: world.now(),
        faults,
        place: Place::Host(place),
    });
    for picture in &pictures {
        world.ledger.result(seq, &picture.url, None);
    }
    End::Pictures(pictures.iter().map(|picture| world.link(picture, 0)).collect())
}

/// Billed when it is taken: what is drawn is paid for, whether or not the stream reaches anybody.
fn bill(world: &World, seq: u64, faults: &Faults, end: &End) {
    world.ledger.accept(seq, None, PICTURE_NANOS);
    let (outcome, nanos, why) = match end {
        End::Pictures(_) => (Outcome::Completed, PICTURE_NANOS, "a picture"),
        End::Failed(_) => (Outcome::Failed, NO_PICTURE_NANOS, "an answer without a picture"),
        _ => (Outcome::NoImage, NO_PICTURE_NANOS, "an answer without a picture"),
    };
    let nanos = match faults.billed {
        Some(true) => PICTURE_NANOS,
        Some(false) => 0,
        None => nanos,
    };
    world.ledger.bill(seq, outcome, nanos, why);
}
