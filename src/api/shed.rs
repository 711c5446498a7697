//! What gives way under load, and in which order: new event streams, then lists, then work of low priority, then all other
//! work. What somebody waits for, what costs nothing or what ends things is always served: reading one task, cancelling,
//! providers' callbacks, health. And no answer takes for ever.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::response::{IntoResponse, Response};
use metrics::counter;

use super::problem::ApiError;
use super::{Api, wait};
use crate::domain::code::Code;
use crate::domain::meter;
use crate::domain::request::Priority;
use crate::domain::secret::random_bytes;

/// Uploads of pictures may take longer to arrive than other bodies.
const UPLOAD: Duration = Duration::from_mins(2);
const LISTS: [&str; 6] = [
    "/tasks",
    "/webhooks",
    "/webhooks/deliveries",
    "/webhooks/{id}/deliveries",
    "/usage",
    "/tasks/{id}/attempts",
];

/// When load is shed.
#[derive(Debug, Clone, Copy)]
pub struct Shed {
    /// How many operations of the database may be under way before ordinary work is turned away.
    pub busy: usize,
    /// How long a handler may take beside what it waits for.
    pub handler: Duration,
}

/// What a request is, as far as load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Stream,
    List,
    Low,
    Normal,
    Never,
}

impl Class {
    fn of(method: &Method, route: &str) -> Self {
        match *method {
            Method::GET if route == "/tasks/{id}/events" => Self::Stream,
            Method::GET if LISTS.contains(&route) || route.starts_with("/admin/") => Self::List,
            Method::POST if route.starts_with("/hooks/") || route.ends_with("/cancel") => Self::Never,
            // The operator's own means against the load.
            _ if route.starts_with("/admin/") => Self::Never,
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE => Self::Normal,
            _ => Self::Never,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::List => "list",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::Never => "never",
        }
    }

    /// From how many operations under way on it gives way.
    const fn gives_way_at(self, busy: usize) -> usize {
        match self {
            Self::Stream => busy / 2,
            Self::List => busy / 8 * 5,
            Self::Low => busy / 4 * 3,
            Self::Normal => busy,
            Self::Never => usize::MAX,
        }
    }
}

impl Api {
    /// Turns work of this class away when there is too much.
    pub(super) fn shed(&self, class: Class) -> Result<(), ApiError> {
        let load = self.store.load();
        if load.under_way() < class.gives_way_at(self.shed.busy).max(1) {
            return Ok(());
        }
        counter!(meter::HTTP_SHED, "class" => class.as_str()).increment(1);
        let wait = pause(load.backlog(), random_bytes::<1>()[0]);
        Err(ApiError::later(Code::Overloaded, "more work is under way than can be kept up with", wait))
    }

    /// The same for a request for pictures, whose priority is known once its body is read.
    pub(super) fn shed_by_priority(&self, priority: Priority) -> Result<(), ApiError> {
        self.shed(if priority == Priority::Low { Class::Low } else { Class::Normal })
    }
}

/// When to come back: what waits over what gets done in a second, 1 s to 5 min, a fifth more or less so that not all come at
/// the same moment.
fn pause(backlog: Duration, dice: u8) -> Duration {
    let seconds = backlog.as_secs_f64().clamp(1.0, 300.0);
    let spread = 0.8 + 0.4 * f64::from(dice) / 255.0;
    Duration::from_secs_f64((seconds * spread).round().clamp(1.0, 300.0))
}

/// Sheds load, and ends what takes too long.
pub(super) async fn carry(
    api: &Api,
    request: Request,
    onward: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let class = Class::of(request.method(), route);
    // Requests for pictures are judged by their priority, in their handler.
    if route != "/generate"
        && let Err(busy) = api.shed(class)
    {
        return busy.into_response();
    }
    let most = api.shed.handler + allowance(&request, route, api.body_within);
    if let Ok(response) = tokio::time::timeout(most, onward(request)).await {
        return response;
    }
    tracing::error!(seconds = most.as_secs(), "a request took too long and was given up");
    let detail = format!("there was no answer within {} s", most.as_secs());
    ApiError::new(Code::StoreUnavailable, detail).into_response()
}

/// What a request may take beside its handling: for its body to arrive, and for what it waits for on purpose.
fn allowance(request: &Request, route: &str, body: Duration) -> Duration {
    let headers = request.headers();
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    let body = match route {
        "/files" => UPLOAD,
        _ if empty && !headers.contains_key(TRANSFER_ENCODING) => Duration::ZERO,
        _ => body,
    };
    let asked = request.uri().query().is_some_and(|query| query.split('&').any(|it| it.starts_with("wait=")));
    let waits = asked || wait::preferred(headers).is_some();
    body + Duration::from_secs(if waits { wait::MAX_WAIT_S } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_way_first() {
        let order = [Class::Stream, Class::List, Class::Low, Class::Normal, Class::Never];
        assert!(order.windows(2).all(|two| two[0].gives_way_at(64) < two[1].gives_way_at(64)));
    }

    #[test]
    fn every_request_has_its_class() {
        for (method, route, class) in [
            (Method::GET, "/tasks/{id}/events", Class::Stream),
            (Method::GET, "/tasks", Class::List),
            (Method::GET, "/tasks/{id}", Class::Never),
            (Method::GET, "/tasks/{id}/images/{index}", Class::Never),
            (Method::GET, "/healthz", Class::Never),
            (Method::POST, "/hooks/{provider}/{token}", Class::Never),
            (Method::POST, "/tasks/{id}/cancel", Class::Never),
            (Method::GET, "/admin/audit", Class::List),
            (Method::GET, "/admin/keys", Class::List),
            (Method::GET, "/admin/spend", Class::List),
            (Method::GET, "/admin/attempts", Class::List),
            (Method::POST, "/admin/log", Class::Never),
            (Method::POST, "/admin/keys", Class::Never),
            (Method::DELETE, "/admin/keys/{id}", Class::Never),
            (Method::POST, "/generate", Class::Normal),
            (Method::POST, "/files", Class::Normal),
            (Method::DELETE, "/webhooks/{id}", Class::Normal),
        ] {
            assert_eq!(Class::of(&method, route), class, "{method} {route}");
        }
    }

    #[test]
    fn the_pause_is_bounded_and_spread() {
        let s = Duration::from_secs;
        assert_eq!((pause(Duration::ZERO, 0), pause(Duration::ZERO, 255)), (s(1), s(1)));
        assert_eq!((pause(s(100), 0), pause(s(100), 255)), (s(80), s(120)));
        assert_eq!((pause(Duration::MAX, 0), pause(Duration::MAX, 255)), (s(240), s(300)));
    }
}
