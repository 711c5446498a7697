//! Tables as CSV (RFC 4180), for spreadsheets: a cell that a spreadsheet would take for a formula is made plain text.

use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

/// How a table is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// JSON.
    Json,
    /// CSV.
    Csv,
}

/// Whether CSV is wanted: by name, else by the `Accept` header.
pub(super) fn wanted(asked: Option<Format>, headers: &HeaderMap) -> bool {
    let accepts = || {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds = accepted.flat_map(|value| value.split(','));
        kinds.any(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/csv"))
        })
    };
    asked.map_or_else(accepts, |asked| asked == Format::Csv)
}

/// A table with its head line, as a file of this name.
pub(super) fn table(name: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Response {
    let mut text = head.join(",") + "\r\n";
    for row in rows {
        text += &row.iter().map(|cell| written(cell)).collect::<Vec<_>>().join(",");
        text += "\r\n";
    }
    let mut response = (StatusCode::OK, text).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    if let Ok(file) = HeaderValue::from_str(&format!("attachment; filename=\"{name}.csv\"")) {
        headers.insert(CONTENT_DISPOSITION, file);
    }
    response
}

/// One cell. Names are chosen by people, and a spreadsheet runs what begins like a formula.
fn written(cell: &str) -> String {
    let number = cell.parse::<f64>().is_ok();
    let formula = !number && cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_formula_is_text() {
        for (cell, line) in [
            ("flux-dev", "flux-dev"),
            ("=1+1", "'=1+1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
            ("+x", "'+x"),
            ("\t=1", "'\t=1"),
            ("=HYPERLINK(\"x\",\"y\")", "\"'=HYPERLINK(\"\"x\"\",\"\"y\"\")\""),
            ("a,b", "\"a,b\""),
            ("-0.5", "-0.5"),
        ] {
            assert_eq!(written(cell), line);
        }
    }

    #[test]
    fn csv_is_wanted_by_name_or_by_header() {
        let mut headers = HeaderMap::new();
        assert!(!wanted(None, &headers) && wanted(Some(Format::Csv), &headers));
        headers.insert(ACCEPT, HeaderValue::from_static("text/html, Text/CSV;q=0.9"));
        assert!(wanted(None, &headers) && !wanted(Some(Format::Json), &headers));
    }
}
