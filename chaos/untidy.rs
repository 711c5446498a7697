//! How the world wraps right answers: words of the simulator's untidy layer that must change nothing of what comes of an
//! order. The simulator's README says what each does.

/// Providers of one JSON document an answer, and those that stream.
const FLUX: &str = "piapi_flux";
const CHAT: &str = "gpt_4o_image";
const IMAGES: &str = "gpt_image";
const PIPELINE: &str = "imagepipeline";
const STREAM: &str = "gpt_image, streaming";
const ALL: &[&str] = &[FLUX, CHAT, IMAGES, STREAM, PIPELINE];
const JSON: &[&str] = &[FLUX, IMAGES, PIPELINE];
const STREAMS: &[&str] = &[CHAT, STREAM];
const BOUGHT: &[&str] = &[CHAT, IMAGES];

/// How an upstream hands its images out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Link,
    Inline,
}

const BOTH: &[Form] = &[Form::Link, Form::Inline];
const LINK: &[Form] = &[Form::Link];
const INLINE: &[Form] = &[Form::Inline];

/// At these providers, in these forms: a directive with one of these words in the place of `{}`.
type Group = (&'static [&'static str], &'static [Form], &'static str, &'static str);

const GROUPS: &[Group] = &[
    // Labels.
    (JSON, BOTH, "label={}", "text/plain application/octet-stream none text/event-stream text/html"),
    (JSON, LINK, "label=\"{}\"", "application/json;charset=utf8 APPLICATION/JSON;Charset=iso-8859-1"),
    (STREAMS, BOTH, "label={}", "application/json text/plain none application/octet-stream"),
    (STREAMS, BOTH, "label=\"{}\"", "Text/Event-Stream;charset=utf-8 text/event-stream;charset=gbk"),
    // Encodings, and what stands around and between the text.
    (ALL, LINK, "wrap={}", "bom leading slashes unicode newline nul comment crumbs"),
    (ALL, INLINE, "wrap={}", "bom leading slashes unicode nul"),
    (ALL, BOTH, "wrap={}", "gzip gzip_twice deflate deflate_raw gzip_unlabelled"),
    (ALL, LINK, "wrap={}", "x_gzip floats number_strings leading,bom,gzip"),
    (JSON, BOTH, "wrap={}", "pretty second_document event"),
    (&[FLUX], LINK, "wrap={}", "string_code"),
    (&[FLUX, PIPELINE], LINK, "wrap={}", "number_ids"),
    // Framing of streams.
    (STREAMS, BOTH, "wrap={}", "ndjson event_array document sse_cr sse_crlf sse_tight sse_ids"),
    (STREAMS, BOTH, "wrap={}", "sse_comments sse_multiline sse_names sse_unended"),
    (STREAMS, BOTH, "wrap=document label={}", "text/event-stream none"),
    (STREAMS, BOTH, "wrap=ndjson label={}", "application/json text/event-stream"),
    // Where images sit.
    (ALL, BOTH, "seat={}", "images output_list output_link output_image_urls result_images"),
    (ALL, LINK, "seat={}", "url_list"),
    (ALL, INLINE, "seat={}", "result_image inline_data image_call"),
    (BOUGHT, BOTH, "seat={}", "parts message_images markdown bare only_link"),
    (BOUGHT, INLINE, "seat={}", "only_bytes"),
    (&[CHAT], BOTH, "wrap=document seat={}", "parts message_images bare"),
    // How base64 and links are spelled.
    (
        ALL,
        INLINE,
        "spell={}",
        "url_safe unpadded url_safe,unpadded base64_prefix data_prefix untyped_prefix odd_prefix percent",
    ),
    (JSON, INLINE, "spell={}", "wrapped_lf wrapped_crlf spaced python_bytes"),
    (JSON, LINK, "spell={}", "spaced"),
    (ALL, LINK, "link=query spell={}", "html_escaped"),
    (&[CHAT], LINK, "spell={}", "angled"),
    // Answers that stop after their last image.
    (ALL, BOTH, "stop={}", "quote object"),
    (&[IMAGES], BOTH, "stop=quote stop_by={}", "eof reset"),
    (&[IMAGES, STREAM], INLINE, "stop={}", "value"),
    // Links, and hosts that have nothing under them for a while.
    (ALL, LINK, "link={}", "query long very_long userinfo userinfo,very_long"),
    (
        &[FLUX, CHAT, PIPELINE],
        LINK,
        "outage_gets=2 outage={}",
        "forbidden missing broken html empty maintenance",
    ),
    // Bytes around an image.
    (ALL, BOTH, "file_wrap={}", "newline two_zeroes zeroes"),
    (ALL, LINK, "file_as=jpeg file_wrap={}", "camera mp4"),
    (&[FLUX, IMAGES], BOTH, "file_as=gif file_wrap={}", "zeroes no_terminator newline"),
    (&[FLUX, IMAGES], BOTH, "file_as=webp file_wrap={}", "newline zeroes"),
    (&[FLUX, CHAT], LINK, "file_label={}", "text/html application/octet-stream image/jpeg none"),
    (&[FLUX, CHAT], LINK, "file_wrap={}", "gzip"),
    // What is said of the prompt.
    (&[FLUX, IMAGES], LINK, "prompt_as={}", "nfc html translated prefixed truncated"),
];

/// Wrapping for an answer of this provider: the words, and whether a stream is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapping {
    pub words: String,
    pub streams: bool,
}

/// Every wrapping that fits this provider.
pub fn fitting(provider: &str) -> Vec<Wrapping> {
    let mut all = Vec::new();
    for (providers, forms, directive, words) in GROUPS {
        for one in providers.iter().filter(|one| one.split(", ").next() == Some(provider)) {
            for (form, word) in forms.iter().flat_map(|form| words.split(' ').map(move |word| (form, word))) {
                let words = format!("{} {}", directive.replace("{}", word), handed(one, *form));
                all.push(Wrapping { words: words.trim_end().to_owned(), streams: *one == STREAM });
            }
        }
    }
    all
}

/// One of them.
pub fn any(provider: &str) -> Wrapping {
    let mut all = fitting(provider);
    all.swap_remove(fastrand::usize(..all.len()))
}

/// What makes an upstream hand its images out in this form.
fn handed(provider: &str, form: Form) -> &'static str {
    match (provider, form) {
        (IMAGES | STREAM, Form::Link) => "form=url",
        (IMAGES | STREAM, Form::Inline) => "form=b64",
        (_, Form::Link) => "",
        (_, Form::Inline) => "inline",
    }
}
