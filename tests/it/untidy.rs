//! Whatever was paid for is kept, however the world wraps it: adapters × wrappings × inline or link, on both
//! databases, with a column for what must not be taken. Expectations are written from what is asked of the
//! gateway, not from its code. The rows of a group share a gateway; all that fail are listed, by name.

mod changes;
mod decoys;
mod recordings;
mod rows;

use rstest::rstest;

use self::rows::{
    CHAT, Case, EDITS, EITHER, FLUX, GENERATIONS, Group, IMAGE_STREAM, INLINE, LINK, SUCCEEDS, V1, V3, check,
};
use crate::harness::Db;

/// One JSON document an answer.
const JSON: &[&str] = &[FLUX, GENERATIONS, EDITS, V3, V1];
const STREAMS: &[&str] = &[CHAT, IMAGE_STREAM];
const ALL: &[&str] = &[FLUX, CHAT, GENERATIONS, EDITS, IMAGE_STREAM, V3, V1];
const JOBS: &[&str] = &[FLUX, V3, V1];
const BOUGHT: &[&str] = &[CHAT, GENERATIONS, EDITS];
/// Two forms of the same.
const BOTH: &[&str] = &[LINK, INLINE];

/// Kind 3: labels.
const LABELS: Group = &[
    Case(
        JSON,
        BOTH,
        "label={}",
        "text/plain application/octet-stream none text/event-stream text/html",
        SUCCEEDS,
    ),
    Case(
        JSON,
        LINK_ONLY,
        "label=\"{}\"",
        "application/json;charset=utf8 APPLICATION/JSON;Charset=iso-8859-1",
        SUCCEEDS,
    ),
    Case(STREAMS, BOTH, "label={}", "application/json text/plain none application/octet-stream", SUCCEEDS),
    Case(
        STREAMS,
        BOTH,
        "label=\"{}\"",
        "Text/Event-Stream;charset=utf-8 text/event-stream;charset=gbk",
        SUCCEEDS,
    ),
];
const LINK_ONLY: &[&str] = &[LINK];
const INLINE_ONLY: &[&str] = &[INLINE];

/// Kind 3: encodings, and what stands around and between the text.
const WRITING: Group = &[
    Case(ALL, LINK_ONLY, "wrap={}", "bom leading slashes unicode newline nul comment crumbs", SUCCEEDS),
    Case(ALL, INLINE_ONLY, "wrap={}", "bom leading slashes unicode nul", SUCCEEDS),
    Case(ALL, BOTH, "wrap={}", "gzip gzip_twice deflate deflate_raw gzip_unlabelled", SUCCEEDS),
    Case(ALL, LINK_ONLY, "wrap={}", "x_gzip floats number_strings leading,bom,gzip", SUCCEEDS),
    Case(JSON, BOTH, "wrap={}", "pretty second_document event", SUCCEEDS),
    Case(&[FLUX], LINK_ONLY, "wrap={}", "string_code", SUCCEEDS),
    Case(JOBS, LINK_ONLY, "wrap={}", "number_ids", SUCCEEDS),
    // Not asked for by name. A build without these decoders is right to quarantine, and wrong to buy twice.
    Case(ALL, LINK_ONLY, "wrap={}", "br zstd gzip_false utf16", EITHER),
    Case(JSON, LINK_ONLY, "wrap={}", "fence guard", EITHER),
];

/// Kind 3: framing of streams.
const FRAMING: Group = &[
    Case(STREAMS, BOTH, "wrap={}", "ndjson event_array document sse_cr sse_crlf sse_tight sse_ids", SUCCEEDS),
    Case(STREAMS, BOTH, "wrap={}", "sse_comments sse_multiline sse_names sse_unended", SUCCEEDS),
    Case(STREAMS, BOTH, "wrap=document label={}", "text/event-stream none", SUCCEEDS),
    Case(STREAMS, BOTH, "wrap=ndjson label={}", "application/json text/event-stream", SUCCEEDS),
    // The torn line is the one with the image: putting it together is more than can be asked.
    Case(STREAMS, LINK_ONLY, "wrap={}", "sse_torn", EITHER),
];

/// Kind 2: where images sit.
const SEATS: Group = &[
    Case(ALL, BOTH, "seat={}", "images output_list output_link output_image_urls result_images", SUCCEEDS),
    Case(ALL, LINK_ONLY, "seat={}", "url_list", SUCCEEDS),
    Case(ALL, INLINE_ONLY, "seat={}", "result_image inline_data image_call", SUCCEEDS),
    Case(BOUGHT, BOTH, "seat={}", "parts message_images markdown bare only_link", SUCCEEDS),
    Case(BOUGHT, INLINE_ONLY, "seat={}", "only_bytes", SUCCEEDS),
    Case(&[CHAT], BOTH, "wrap=document seat={}", "parts message_images bare", SUCCEEDS),
    // Markup in a text is one step further than a link in it.
    Case(BOUGHT, BOTH, "seat={}", "html", EITHER),
];

/// Kind 2: how base64 and links are spelled.
const SPELLING: Group = &[
    Case(
        ALL,
        INLINE_ONLY,
        "spell={}",
        "url_safe unpadded url_safe,unpadded base64_prefix data_prefix",
        SUCCEEDS,
    ),
    Case(ALL, INLINE_ONLY, "spell={}", "untyped_prefix odd_prefix percent", SUCCEEDS),
    Case(JSON, INLINE_ONLY, "spell={}", "wrapped_lf wrapped_crlf spaced python_bytes", SUCCEEDS),
    Case(&[IMAGE_STREAM], INLINE_ONLY, "spell={}", "wrapped_lf wrapped_crlf spaced", SUCCEEDS),
    Case(JSON, LINK_ONLY, "spell={}", "spaced", SUCCEEDS),
    Case(ALL, LINK_ONLY, "link=query spell={}", "html_escaped", SUCCEEDS),
    Case(&[CHAT], LINK_ONLY, "spell={}", "angled", SUCCEEDS),
    // White space within a Markdown link is no link to many readers; quotation marks in a string are a slip.
    Case(&[CHAT], BOTH, "spell={}", "spaced", EITHER),
    Case(&[CHAT], INLINE_ONLY, "spell={}", "wrapped_lf wrapped_crlf", EITHER),
    Case(JSON, BOTH, "spell={}", "quoted", EITHER),
    Case(JSON, LINK_ONLY, "spell={}", "angled", EITHER),
];

/// Kind 2: answers that stop after their last image.
const STOPS: Group = &[
    Case(ALL, BOTH, "stop={}", "quote object", SUCCEEDS),
    Case(&[GENERATIONS, EDITS], BOTH, "stop=quote stop_by={}", "eof reset", SUCCEEDS),
    Case(&[GENERATIONS, EDITS, IMAGE_STREAM], INLINE_ONLY, "stop={}", "value", SUCCEEDS),
    // A link may go on after what arrived of it.
    Case(JSON, LINK_ONLY, "stop={}", "value", EITHER),
];

/// Kind 6: links.
const LINKS: Group = &[
    Case(ALL, LINK_ONLY, "link={}", "query long very_long userinfo userinfo,very_long", SUCCEEDS),
    Case(
        &[FLUX, CHAT, V3],
        LINK_ONLY,
        "outage_gets=3 outage={}",
        "forbidden missing broken html empty maintenance",
        SUCCEEDS,
    ),
    Case(
        &[FLUX, GENERATIONS, V1],
        LINK_ONLY,
        "outage_s=7200 outage={}",
        "forbidden html empty maintenance",
        SUCCEEDS,
    ),
];

/// Kind 1: bytes around an image.
const FILES: Group = &[
    Case(ALL, BOTH, "file_wrap={}", "newline two_zeroes zeroes", SUCCEEDS),
    Case(ALL, LINK_ONLY, "file_as=jpeg file_wrap={}", "camera mp4", SUCCEEDS),
    Case(&[FLUX, GENERATIONS], BOTH, "file_as=gif file_wrap={}", "zeroes no_terminator newline", SUCCEEDS),
    Case(&[FLUX, GENERATIONS], BOTH, "file_as=webp file_wrap={}", "newline zeroes", SUCCEEDS),
    Case(
        &[FLUX, CHAT, V1],
        LINK_ONLY,
        "file_label={}",
        "text/html application/octet-stream image/jpeg none",
        SUCCEEDS,
    ),
    Case(&[FLUX, CHAT], LINK_ONLY, "file_wrap={}", "gzip", SUCCEEDS),
    // A file that is a gzip archive by all that is said of it.
    Case(&[FLUX], LINK_ONLY, "file_wrap={}", "gzip_unlabelled", EITHER),
];

/// Kind 7: what the answer says of the prompt.
const PROMPTS: Group = &[Case(
    &[FLUX, GENERATIONS],
    LINK_ONLY,
    "prompt_as={}",
    "nfc html translated prefixed truncated",
    SUCCEEDS,
)];

#[rstest]
#[case::labels(LABELS)]
#[case::writing(WRITING)]
#[case::framing(FRAMING)]
#[case::seats(SEATS)]
#[case::spelling(SPELLING)]
#[case::stops(STOPS)]
#[case::links(LINKS)]
#[case::files(FILES)]
#[case::prompts(PROMPTS)]
#[tokio::test]
async fn a_right_answer_is_kept_however_it_is_wrapped(
    #[case] group: Group,
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    check(db, group).await;
}
