//! The error codes callers see, in one table: HTTP status, title, whether asking again can help, and what to do.
//! An RFC 9457 problem, `task.error`, the pages under `/errors/` and the documentation are all made from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a code means to a caller.
#[derive(Debug, Clone, Copy)]
pub struct Meaning {
    /// HTTP status of a problem with this code.
    pub status: u16,
    /// One line, the same for every occurrence.
    pub title: &'static str,
    /// Whether the same request can succeed later; never true where a second purchase could follow.
    pub retryable: bool,
    /// What happened and what to do, for the human page.
    pub advice: &'static str,
}

macro_rules! codes {
    ($($name:ident $text:literal $status:literal $retryable:literal $title:literal, $advice:literal;)*) => {
        /// A problem's machine-readable name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code's name, as in `code` and in `type`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The code's row of the table.
            pub const fn meaning(self) -> Meaning {
                match self { $(Self::$name => Meaning { status: $status, title: $title, retryable: $retryable, advice: $advice },)* }
            }
        }
    };
}

codes! {
    InvalidJson "invalid_json" 400 false "Body is not valid JSON",
        "The body must be one JSON document in UTF-8: no duplicate keys, at most 64 levels deep. Nothing was stored or sent.";
    InvalidRequest "invalid_request" 400 false "Malformed request",
        "A header, query parameter or path is malformed; the detail names it. Nothing was stored or sent.";
    UnsupportedMediaType "unsupported_media_type" 415 false "Unsupported content type",
        "Send `Content-Type: application/json` without a content encoding, or what the endpoint's page names.";
    ValidationFailed "validation_failed" 422 false "Request is not valid",
        "Each entry of `errors` points at one field and says what it must be. Nothing was stored or sent.";
    Unservable "unservable" 422 false "No route can serve this request",
        "The request is well-formed, but no configured provider route can honour it; `errors` says why, route by route. Try another model, or relax the parameters named.";
    IdempotencyKeyReused "idempotency_key_reused" 422 false "Idempotency key was used for another request",
        "This key already belongs to a task with a different body. The earlier task is untouched. Use a new key for a new request.";
    Unauthorized "unauthorized" 401 false "Missing or unknown API key",
        "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`. Keys are read from headers only, never from the URL.";
    Forbidden "forbidden" 403 false "Not allowed for this key",
        "The key is known but may not do this: it lacks the role, the model is not on its list, or a signed URL does not hold.";
    NotFound "not_found" 404 false "Not found",
        "There is no such thing here, or it belongs to another tenant.";
    Gone "gone" 410 false "No longer kept",
        "It was here and is no more: the picture's time (`expires_at`) is over, or the task was erased. The task itself still answers.";
    MethodNotAllowed "method_not_allowed" 405 false "Method not allowed",
        "The path exists, but not with this method; `Allow` lists the ones that do.";
    AlreadyFinished "already_finished" 409 false "Task has already ended",
        "A task that has ended stays as it is; read it with GET.";
    NotCancelable "not_cancelable" 409 false "Task can no longer be canceled",
        "The provider is already being paid for this task and offers no way back. It runs on to its end.";
    NotFinished "not_finished" 409 false "Task has not ended yet",
        "Cancel the task, or wait for its end, and ask again.";
    StillUnreadable "still_unreadable" 422 false "Still no image",
        "What lies in quarantine, or was supplied in its place, gives no image that its task does not have. It stays where it is; try again with the image's link or file, or after an upgrade.";
    PayloadTooLarge "payload_too_large" 413 false "Body is too large",
        "JSON bodies may have 1 MiB, uploads 32 MiB. Upload large images with `POST /files` and name them by `file_id`.";
    UriTooLong "uri_too_long" 414 false "URI is too long",
        "A request's path and query may have 8 KiB.";
    RangeNotSatisfiable "range_not_satisfiable" 416 false "Range cannot be satisfied",
        "The range lies outside the picture; `Content-Range` names its size.";
    HeadersTooLarge "headers_too_large" 431 false "Headers are too large",
        "A request may carry 64 headers and 32 KiB in all.";
    RequestTimeout "request_timeout" 408 true "Request took too long to arrive",
        "The headers must arrive within 10 seconds, the body within 30. Nothing was stored or sent.";
    BudgetExceeded "budget_exceeded" 402 false "Budget is used up",
        "This key's daily or total budget does not cover the request. Nothing was bought.";
    PriceUnknown "price_unknown" 402 false "Price is not known",
        "No price is known for the chosen route, and this key or request has a money limit that could not be kept. An operator can set `prices` for the provider.";
    MaxCostExceeded "max_cost_exceeded" 402 false "Price is above max_cost_usd",
        "The cheapest route that can serve the request costs more than `routing.max_cost_usd`. Nothing was bought.";
    UrlNotAllowed "url_not_allowed" 422 false "URL is not allowed",
        "The gateway fetches and calls public https addresses only, and private networks the operator has named.";
    RateLimited "rate_limited" 429 true "Too many requests",
        "Wait for `Retry-After` seconds; the `RateLimit` headers tell how much is left.";
    QueueFull "queue_full" 429 true "Too many open tasks",
        "The key, the tenant or the gateway has as many open tasks as it may. Wait for `Retry-After` seconds.";
    Overloaded "overloaded" 503 true "Gateway is overloaded",
        "The gateway sheds load to keep its promises. Nothing was stored; wait for `Retry-After` seconds.";
    Draining "draining" 503 true "Gateway is shutting down",
        "This replica is finishing what it has and takes nothing new. Nothing was stored; ask again.";
    StoreUnavailable "store_unavailable" 503 true "Database is not available",
        "The request could not be stored durably, so it was not accepted. Ask again with the same Idempotency-Key.";
    NoProviderAvailable "no_provider_available" 503 true "No provider is available",
        "Every provider that could serve this is failing or paused at the moment. Nothing was bought; wait for `Retry-After` seconds.";
    Internal "internal" 500 false "Unexpected failure in the gateway",
        "A defect in the gateway. If a task was created it goes on by itself; the request id finds the log line.";
    ContentRejected "content_rejected" 422 false "Content was rejected by the provider's policy",
        "The provider refused the prompt or an image. It is never offered to another provider on the gateway's own accord.";
    NoImageReturned "no_image_returned" 502 false "Provider returned no image",
        "The provider answered and ended without a picture; the detail says how the answer was read.";
    ProviderDowngraded "provider_downgraded" 502 false "Provider answered with a lesser model",
        "The answer says that another model than the one asked for drew it, or would have to.";
    ProviderRejected "provider_rejected" 502 false "Provider rejected the request",
        "The provider did not accept the request; its own words are in `provider`.";
    ProviderFailed "provider_failed" 502 false "Provider failed to generate",
        "The provider accepted the request and reported a failure; its own words are in `provider`.";
    ProviderAuthFailed "provider_auth_failed" 502 false "Provider refused the gateway's credentials",
        "An operator must check the provider's key. Nothing was bought.";
    ProviderQuotaExhausted "provider_quota_exhausted" 502 false "Provider account has no credit left",
        "An operator must top up the provider's account. Nothing was bought.";
    ProviderUnreachable "provider_unreachable" 502 true "Provider could not be reached",
        "No connection to the provider came about, so nothing was bought.";
    ProviderOverloaded "provider_overloaded" 502 true "Provider is overloaded",
        "The provider turned the request away for want of room, so nothing was bought.";
    OutcomeUnknown "outcome_unknown" 502 false "Outcome of the submission is unknown",
        "The provider may or may not have accepted, and charged for, the request. It was not sent again. If a picture turns up later it is attached as `late_result`.";
    DeadlineExceeded "deadline_exceeded" 504 true "Deadline has passed",
        "The task did not end within its deadline; `billed` tells whether a provider may have charged for it.";
    AssetUnavailable "asset_unavailable" 502 false "Picture could not be fetched",
        "The provider made a picture, but its links stayed dead for the whole asset window. The links are kept for the operator.";
    AssetRejected "asset_rejected" 502 false "Picture was not acceptable",
        "What the provider's link gave is not a picture, or one beyond the limits. The link is kept for the operator.";
    StorageFailed "storage_failed" 500 false "Picture could not be stored",
        "The gateway could not keep the picture. The provider's links are kept for the operator.";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_json_is_the_name_in_the_table() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    /// The guide's table has every code once, and no other.
    #[test]
    fn the_guide_says_what_to_do_about_every_code() {
        let guide = include_str!("../../docs/api-guide.md");
        let table = guide.split_once("| Code | What to do |").unwrap().1.split_once("\n\n").unwrap().0;
        let cells = table.lines().filter_map(|row| row.split('|').nth(1));
        let mut named: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let mut known: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
    }

    #[test]
    fn an_unknown_outcome_never_invites_a_retry() {
        assert!(!Code::OutcomeUnknown.meaning().retryable);
    }
}
