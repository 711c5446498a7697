//! Words for an untidy world: how a right answer is written, framed and encoded, where its images sit, how
//! they are spelled, and where it stops.

use super::list::words;

words! {
    /// How an answer is written, framed and encoded.
    Wrap {
        /// A byte order mark before the text.
        Bom,
        /// White space and line feeds before the text, as keep-alive bytes leave them.
        Leading,
        /// JSON with line feeds and indentation.
        Pretty,
        /// Every `/` in JSON as `\/`.
        Slashes,
        /// Every character of a JSON string as `\uXXXX`.
        Unicode,
        /// A line feed after the text.
        Newline,
        /// A NUL after the text.
        Nul,
        /// An HTML comment after the text.
        Comment,
        /// A second JSON document after the text.
        SecondDocument,
        /// The text in a Markdown fence.
        Fence,
        /// A guard against script inclusion before the text: `)]}'` and a line feed.
        Guard,
        /// UTF-16, little endian, with its mark, labelled so.
        Utf16,
        /// Chunks of one byte.
        Crumbs,
        /// Whole numbers with a fraction: `20000.0`.
        Floats,
        /// Numbers as strings.
        NumberStrings,
        /// The number under `code` as a string.
        StringCode,
        /// Job ids are digits and stand as numbers.
        NumberIds,
        /// A JSON answer as one server-sent event, with `[DONE]` after it.
        Event,
        /// The events' data as one JSON document a line.
        Ndjson,
        /// The events' data as one JSON array.
        EventArray,
        /// A stream as the one document that it adds up to.
        Document,
        /// Lines of a stream end in CR.
        SseCr,
        /// Lines of a stream end in CR LF.
        SseCrlf,
        /// No space after `data:`.
        SseTight,
        /// `id:` and `retry:` lines.
        SseIds,
        /// Comments and blank lines before and between events.
        SseComments,
        /// JSON over several `data:` lines.
        SseMultiline,
        /// `event: message` before each event without a name.
        SseNames,
        /// A keep-alive comment in the middle of the longest data line.
        SseTorn,
        /// The events without the one that says it ended, and without `[DONE]`.
        SseUnended,
        /// Gzip, labelled.
        Gzip,
        /// Gzip over gzip, both labelled.
        GzipTwice,
        /// Gzip without a label.
        GzipUnlabelled,
        /// Gzip under its old name `x-gzip`.
        XGzip,
        /// Plain text labelled as gzip.
        GzipFalse,
        /// Deflate as the standard has it, in a zlib stream.
        Deflate,
        /// Deflate as some send it, without zlib's header.
        DeflateRaw,
        /// Brotli.
        Br,
        /// Zstandard.
        Zstd,
    }

    /// Where the images sit, instead of the upstream's own place.
    Seat {
        /// `content` as a list of parts, one of them `image_url`.
        Parts,
        /// `images[]` in the message or the delta, as OpenRouter has it.
        MessageImages,
        /// A Markdown image in the text.
        Markdown,
        /// An `img` element in the text.
        Html,
        /// The link, or the `data:` URI, as the whole text.
        Bare,
        /// `images: [{url}]`, as fal has it.
        Images,
        /// `output: [link, …]`, as Replicate has it.
        OutputList,
        /// `output: link`.
        OutputLink,
        /// `output.image_urls`.
        OutputImageUrls,
        /// `result.images: [{url}]`.
        ResultImages,
        /// `result.images: [{url: [link]}]`: a list where a link is usual.
        UrlList,
        /// `result.image` in base64, as Cloudflare has it.
        ResultImage,
        /// `candidates[].content.parts[].inlineData.data`, as Gemini has it.
        InlineData,
        /// `output: [{type: image_generation_call, result}]`, as OpenAI's Responses have it.
        ImageCall,
        /// The body is the link and nothing else.
        OnlyLink,
        /// The body is the image's bytes and nothing else.
        OnlyBytes,
    }

    /// How a link or base64 is spelled.
    Spelling {
        /// Base64 in the URL-safe alphabet.
        UrlSafe,
        /// Base64 without `=` at its end.
        Unpadded,
        /// `base64,` before base64.
        Base64Prefix,
        /// `data:image/png;base64,` before base64.
        DataPrefix,
        /// `data:;base64,` before base64.
        UntypedPrefix,
        /// `DATA:Image/PNG;charset=utf-8;BASE64,` before base64.
        OddPrefix,
        /// Base64 as Python prints bytes: `b'…'`.
        PythonBytes,
        /// `+`, `/` and `=` of base64 percent-encoded.
        Percent,
        /// Base64 in lines of 76 characters that end in LF.
        WrappedLf,
        /// Base64 in lines of 76 characters that end in CR LF.
        WrappedCrlf,
        /// White space around it.
        Spaced,
        /// `&` as `&amp;`.
        HtmlEscaped,
        /// A link in angle brackets.
        Angled,
        /// In quotation marks of its own.
        Quoted,
    }

    /// What links to results look like.
    LinkForm {
        /// With a query of several fields.
        Query,
        /// 2,100 characters long.
        Long,
        /// 15,000 characters long.
        VeryLong,
        /// With a name and a password, which the host asks for.
        Userinfo,
    }

    /// Where an answer stops.
    Stop {
        /// After the last character of the last image or link, before its quotation mark.
        Value,
        /// After the closing quotation mark of the last image or link.
        Quote,
        /// After the closing brace of the object with the last image or link.
        Object,
    }

    /// How it stops.
    StopBy {
        /// The rest is missing, correctly framed.
        Frame,
        /// The connection ends before what its length promised.
        Eof,
        /// The connection is reset.
        Reset,
    }
}
