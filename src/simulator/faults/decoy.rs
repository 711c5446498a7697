//! Words for an untidy world: how a stream says no, what looks like a result and is none, how the prompt comes
//! back, and what a result file has around its image.

use super::list::words;

words! {
    /// How a stream, or a 200, says no.
    ErrorEvent {
        /// `event: error` with an OpenAI error object.
        EventJson,
        /// `event: error` with plain text.
        EventText,
        /// `{"error": {"message", "type", "code"}}`.
        Object,
        /// `{"error": "text"}`.
        Text,
        /// `{"type": "error", "error": {…}}`.
        Typed,
        /// `{"type": "error", "code", "message"}`.
        TypedFlat,
        /// `{"type": "response.failed", "response": {"error": {…}}}`.
        ResponseFailed,
        /// `{"type": "image_generation.failed", "error": {…}}`.
        GenerationFailed,
        /// `{"object": "error", "message", "code"}`.
        ObjectError,
        /// `{"code", "message"}`.
        Code,
        /// `{"detail": "text"}`.
        Detail,
        /// `{"success": false, "errors": [{"message"}]}`.
        Errors,
        /// `finish_reason: content_filter`.
        FinishReason,
        /// A `refusal` in the delta.
        Refusal,
        /// `promptFeedback.blockReason`, as Gemini has it.
        BlockReason,
    }

    /// What comes before it.
    ErrorAfter {
        /// Nothing.
        Start,
        /// Some text.
        Text,
        /// Partial images.
        Partial,
    }

    /// What looks like a result and is none.
    Decoy {
        /// Our input image (or some image) under `input`.
        EchoInput,
        /// The same under `meta.input`.
        EchoMetaInput,
        /// The same under `config`.
        EchoConfig,
        /// The same under `request`.
        EchoRequest,
        /// The input's own link where the result belongs.
        InputLink,
        /// The input's bytes where the result belongs.
        InputBytes,
        /// The mask's bytes where the result belongs.
        Mask,
        /// The control image's bytes where the result belongs.
        Control,
        /// A link of the prompt where the result belongs.
        PromptLink,
        /// Partial images.
        Partial,
        /// Thumbnails.
        Thumbnail,
        /// Previews.
        Preview,
        /// Progress links.
        Progress,
        /// Links to hosts that are known to hold no results.
        DecoyHost,
        /// A link to an image under a key that nobody knows.
        UnknownKey,
    }

    /// How the prompt comes back.
    PromptForm {
        /// Composed (NFC) where it was sent decomposed.
        Nfc,
        /// HTML-escaped.
        Html,
        /// In another language.
        Translated,
        /// With words before it.
        Prefixed,
        /// Its first half.
        Truncated,
    }

    /// What a result file has around or after its image.
    FileWrap {
        /// A line feed.
        Newline,
        /// Two zeroes.
        TwoZeroes,
        /// 300 zeroes.
        Zeroes,
        /// 320 bytes as a camera leaves them.
        Camera,
        /// A short MP4: a motion photo.
        Mp4,
        /// A GIF lacks its last byte.
        NoTerminator,
        /// The file is sent in gzip, labelled.
        Gzip,
        /// The file is sent in gzip, unlabelled.
        GzipUnlabelled,
    }

    /// What files are drawn as, whatever was asked for.
    FileFormat {
        /// PNG.
        Png,
        /// JPEG.
        Jpeg,
        /// WebP.
        Webp,
        /// GIF.
        Gif,
    }

    /// What a host answers while it has no files.
    Outage {
        /// 403.
        Forbidden,
        /// 404.
        Missing,
        /// 500.
        Broken,
        /// 200 with a page.
        Html,
        /// 200 with nothing.
        Empty,
        /// 503 with a page and `Retry-After`.
        Maintenance,
    }
}
