//! The documentation, served from the binary: `/openapi.json`, Swagger UI at `/docs`, and a page for every error code.

use axum::Router;
use axum::extract::Path;
use axum::response::{Html, Redirect};
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApiBuilder, tag::TagBuilder};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::Api;
use super::problem::ApiError;
use crate::domain::code::Code;
use crate::domain::view::Problem;

const ABOUT: &str = "One interface to paid image-generation providers. `POST /generate` takes a request in durably and \
answers with a task; the task is routed to a provider, paid for at most once, and its pictures are kept here.\n\n\
Errors are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problems; each `type` opens a page about its code.";

/// The document's head: what the interface is, how to authenticate, how it is divided.
pub(super) fn about() -> OpenApi {
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    let tags = [
        ("Generate", "Ask for pictures"),
        ("Tasks", "Follow a request from the 202 to its pictures"),
        ("Files", "Input images and masks"),
        ("Webhooks", "Be told, signed and at least once"),
        ("Catalogue", "What can be asked for, and of whom"),
        ("Usage", "What was made, and what it cost"),
        ("Admin", "Who may come in, how much, and who did what; for keys with the role `admin`"),
        ("Operation", "Whether the gateway is well"),
    ];
    let info = InfoBuilder::new()
        .title("Easel")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            utoipa::openapi::LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
        ));
    let components = ComponentsBuilder::new()
        .security_scheme("bearer", bearer)
        .security_scheme("api_key", header)
        .schema_from::<Problem>();
    let none: [&str; 0] = [];
    OpenApiBuilder::new()
        .info(info.build())
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new("bearer", none), SecurityRequirement::new("api_key", none)]))
        .tags(Some(tags.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build())))
        .build()
}

/// The pages.
pub(super) fn pages(document: OpenApi) -> Router<Api> {
    let config =
        Config::default().try_it_out_enabled(true).display_request_duration(true).persist_authorization(true);
    Router::new()
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document).config(config))
        .route("/errors/{code}", get(error_page))
        .route("/", get(async || Redirect::temporary("/docs/")))
}

async fn error_page(Path(name): Path<String>) -> Result<Html<String>, ApiError> {
    let code = Code::ALL.iter().find(|code| code.as_str() == name).ok_or_else(ApiError::not_found)?;
    let meaning = code.meaning();
    let retry =
        if meaning.retryable { "The same request can succeed later." } else { "Asking again will not help." };
    Ok(Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{name}</title><style>body{{font:16px/1.6 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem}}\
         code{{background:#eee;padding:.1em .3em;border-radius:3px}}</style>\
         <h1>{title}</h1><p><code>{name}</code> · HTTP {status}</p><p>{advice}</p><p>{retry}</p>",
        title = meaning.title,
        status = meaning.status,
        advice = coded(meaning.advice),
    )))
}

/// `code` between backticks as HTML.
fn coded(text: &str) -> String {
    let mut pieces = text.split('`');
    let mut html = pieces.next().unwrap_or_default().to_owned();
    for (at, piece) in pieces.enumerate() {
        html.push_str(if at % 2 == 0 { "<code>" } else { "</code>" });
        html.push_str(&piece.replace('<', "&lt;"));
    }
    html
}
