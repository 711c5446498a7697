//! The way every paid POST takes: read to its last byte, written down, checked, taken, answered. Each step
//! is the same at every upstream; a [`Desk`] fills in what differs.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use sha2::{Digest, Sha256};

use super::connection::Switch;
use super::dialect::{Dialect, check_key, cloudflare_blocked};
use super::faults::answer::{self, Caller};
use super::faults::{Endpoint, Faults};
use super::ledger::{Outcome, Provider, Reception};
use super::untidy::{self, Input, Scene};
use super::world::World;

/// More than the largest legal edit (16 images) is cut off by any upstream.
const BODY: usize = 256 << 20;

/// A paid POST, whole.
#[derive(Debug, Clone)]
pub struct Post {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub switch: Switch,
}

/// What the ledger wants to know of a POST before anybody has judged it.
#[derive(Debug, Clone, Default)]
pub struct Glance {
    pub prompt: String,
    pub correlation: Option<String>,
    pub n: u64,
    pub note: Option<String>,
}

/// A legal order on its way to being carried out.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub seq: u64,
    pub prompt: String,
    pub faults: Arc<Faults>,
    pub switch: Switch,
    /// The length of the body, as a measure of what remembering it costs.
    pub weight: usize,
    /// The images that came with it.
    pub inputs: Arc<[Input]>,
}

/// The answer to an illegal order.
pub type Refusal = Box<Response>;

/// One upstream's counter.
pub trait Desk: 'static {
    const ENDPOINT: Endpoint;
    const PROVIDER: Provider;
    const DIALECT: Dialect;
    /// Whether a request without a User-Agent is refused before it gets here.
    const CLOUDFLARE: bool;
    /// The body as far as it can be understood.
    type Form: Send + Sync;
    /// The body once it was found legal.
    type Order: Send;

    /// Reads the body; never fails, what makes no sense is refused by [`Desk::check`].
    fn read(post: &Post) -> impl Future<Output = Self::Form> + Send;
    /// What can be seen without judging.
    fn glance(form: &Self::Form) -> Glance;
    /// The images that came along.
    fn inputs(_form: &Self::Form) -> Vec<Input> {
        Vec::new()
    }
    /// Refuses what the fact sheet calls illegal.
    fn check(form: &Self::Form) -> Result<Self::Order, Refusal>;
    /// Carries it out: from here on it costs money. The answer is the natural one.
    fn take(world: Arc<World>, ticket: Ticket, order: Self::Order) -> impl Future<Output = Response> + Send;
}

/// Receives a POST at this desk.
pub async fn receive<D: Desk>(State(world): State<Arc<World>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let Some(switch) = head.extensions.get::<Switch>().cloned() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    // A caller that goes away in the middle of its body has bought nothing and leaves no line.
    let Ok(body) = to_bytes(body, BODY).await else { return StatusCode::BAD_REQUEST.into_response() };
    let post = Post { path: head.uri.path().to_owned(), headers: head.headers, body, switch };
    // From the last byte on the upstream acts whether or not the caller still listens.
    let tracker = world.tracker.clone();
    let work = tracker.spawn(async move {
        let stop = world.stop.clone();
        stop.run_until_cancelled_owned(process::<D>(world, post)).await
    });
    match work.await {
        Ok(Some(answer)) => answer,
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn process<D: Desk>(world: Arc<World>, post: Post) -> Response {
    let form = D::read(&post).await;
    let glance = D::glance(&form);
    let key = D::DIALECT.key(&post.headers);
    let Ok(seq) = world.ledger.receive(reception::<D>(&world, &post, &glance)).await else {
        // What cannot be written down is not done.
        post.switch.reset();
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let reject = |answer: Response, why: &str| {
        world.ledger.bill(seq, Outcome::Rejected, 0, why);
        answer
    };
    if D::CLOUDFLARE && !post.headers.contains_key(header::USER_AGENT) {
        return reject(cloudflare_blocked(), "no user agent");
    }
    if let Some(answer) = D::DIALECT.refuse_key(check_key(key)) {
        return reject(answer, "key refused");
    }
    // Legality comes before any fault, so that an illegal order never hides behind one.
    let order = match D::check(&form) {
        Ok(order) => order,
        Err(answer) => return reject(*answer, "illegal request"),
    };
    let faults = match world.rules.for_post(D::ENDPOINT, key, &glance.prompt) {
        Ok(faults) => faults,
        Err(why) => return reject(D::DIALECT.error(StatusCode::BAD_REQUEST, &why), "unknown fault"),
    };
    let caller = Caller { switch: &post.switch, dialect: D::DIALECT, key };
    if !faults.accepts() {
        world.ledger.bill(seq, Outcome::Rejected, 0, "lost or refused on purpose");
        let instead = answer::instead(&faults, caller).await;
        return instead.unwrap_or_else(|| D::DIALECT.error(StatusCode::BAD_REQUEST, "refused on purpose"));
    }
    let inputs: Arc<[Input]> = D::inputs(&form).into();
    let prompt = glance.prompt.clone();
    let scene = Scene { endpoint: D::ENDPOINT, seq, prompt, inputs: Arc::clone(&inputs), poll: 0 };
    let ticket = Ticket {
        seq,
        prompt: glance.prompt,
        faults: Arc::clone(&faults),
        switch: post.switch.clone(),
        weight: post.body.len(),
        inputs,
    };
    let natural = D::take(Arc::clone(&world), ticket, order).await;
    let natural = untidy::lay(&world, &faults, &scene, &post.switch, natural).await;
    match answer::instead(&faults, caller).await {
        Some(instead) => instead,
        None => answer::spoil(&faults, &post.switch, natural).await,
    }
}

fn reception<D: Desk>(world: &World, post: &Post, glance: &Glance) -> Reception {
    let key = D::DIALECT.key(&post.headers);
    let header = |name| post.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Reception {
        at: world.now().0,
        provider: Some(D::PROVIDER),
        endpoint: post.path.clone(),
        key: key.map(|key| hex::encode(Sha256::digest(key)).chars().take(12).collect()),
        key_check: check_key(key),
        prompt_sha256: hex::encode(Sha256::digest(&glance.prompt)),
        prompt_head: glance.prompt.chars().take(40).collect(),
        correlation: glance
            .correlation
            .clone()
            .or_else(|| header("x-request-id"))
            .or_else(|| header("x-correlation-id"))
            .or_else(|| header("idempotency-key")),
        n: glance.n,
        note: glance.note.clone(),
        ..Reception::default()
    }
}

/// What a poll, a cancellation or a file is answered with when a rule asks for a fault, and what is done to
/// the natural answer otherwise.
pub async fn with_faults(
    faults: Option<&Faults>,
    caller: Caller<'_>,
    natural: impl Future<Output = Response>,
) -> Response {
    let Some(faults) = faults else { return natural.await };
    match answer::instead(faults, caller).await {
        Some(instead) => instead,
        None => answer::spoil(faults, caller.switch, natural.await).await,
    }
}
