//! How an image is spelled where it stands: base64 in its alphabets and lines, with what is put before it,
//! and links as they are escaped.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::results::Sent;
use crate::simulator::faults::{Faults, Spelling};

const LINE: usize = 76;

/// Base64, for a key that holds base64.
pub fn base64(sent: &Sent, faults: &Faults) -> String {
    let packed = packed(&sent.bytes, faults);
    let text = match prefix(sent, faults) {
        Some(prefix) => format!("{prefix}{packed}"),
        None if faults.spells(Spelling::PythonBytes) => format!("b'{packed}'"),
        None => packed,
    };
    around(text, faults)
}

/// A link, or a `data:` URI in its place.
pub fn link(sent: &Sent, faults: &Faults) -> String {
    let Some(link) = sent.link.as_ref().filter(|_| !faults.inline) else {
        let usual = format!("data:{};base64,", sent.mime);
        let prefix = prefix(sent, faults).unwrap_or(usual);
        return around(format!("{prefix}{}", packed(&sent.bytes, faults)), faults);
    };
    let mut text = link.clone();
    if faults.spells(Spelling::HtmlEscaped) {
        text = text.replace('&', "&amp;");
    }
    if faults.spells(Spelling::Angled) {
        text = format!("<{text}>");
    }
    around(text, faults)
}

fn packed(bytes: &[u8], faults: &Faults) -> String {
    let safe = faults.spells(Spelling::UrlSafe);
    let bare = faults.spells(Spelling::Unpadded);
    let mut text = match (safe, bare) {
        (false, false) => STANDARD.encode(bytes),
        (false, true) => STANDARD_NO_PAD.encode(bytes),
        (true, false) => URL_SAFE.encode(bytes),
        (true, true) => URL_SAFE_NO_PAD.encode(bytes),
    };
    if faults.spells(Spelling::Percent) {
        text = text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    }
    let end = match (faults.spells(Spelling::WrappedLf), faults.spells(Spelling::WrappedCrlf)) {
        (true, _) => "\n",
        (_, true) => "\r\n",
        _ => return text,
    };
    let lines: Vec<_> = text.as_bytes().chunks(LINE).map(String::from_utf8_lossy).collect();
    lines.join(end) + end
}

fn prefix(sent: &Sent, faults: &Faults) -> Option<String> {
    if faults.spells(Spelling::Base64Prefix) {
        Some("base64,".to_owned())
    } else if faults.spells(Spelling::DataPrefix) {
        Some(format!("data:{};base64,", sent.mime))
    } else if faults.spells(Spelling::UntypedPrefix) {
        Some("data:;base64,".to_owned())
    } else if faults.spells(Spelling::OddPrefix) {
        Some("DATA:Image/PNG;charset=utf-8;BASE64,".to_owned())
    } else {
        None
    }
}

fn around(mut text: String, faults: &Faults) -> String {
    if faults.spells(Spelling::Quoted) {
        text = format!("\"{text}\"");
    }
    if faults.spells(Spelling::Spaced) {
        text = format!(" \n\t{text}\r\n ");
    }
    text
}
