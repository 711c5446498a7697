//! Finds the images in text that a provider wrote for people. It holds an echo of the request, decoy links, progress links
//! and often the same image twice; what counts is taken in the order of trust (facts: providers B3).

use url::Url;

use super::ImageSource;
use super::own::Own;
use super::reader::{Images, MARK};
use super::results::{MAX_IMAGES, MAX_LINK};

/// Hosts whose links are previews or progress, never the result, with all hosts below them…
const DECOY_HOSTS: [&str; 2] = ["asyncdata.net", "videos.openai.com"];
/// …and hosts of pages about the service; hosts below these hold results, too.
const PAGE_HOSTS: [&str; 4] = ["piapi.ai", "www.piapi.ai", "openai.com", "www.openai.com"];
/// A link that stands for an image and leads to none.
const PLACEHOLDER: &str = "googleusercontent.com/image_generation_content";
const ENDINGS: [&str; 6] = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif"];
const DOWNLOAD_WORDS: [&str; 3] = ["download", "下载", "click"];
/// What is said when the image is ready.
pub(super) const DONE_WORDS: [&str; 2] = ["generation complete", "生成完成"];

/// One link of the text.
#[derive(Debug, PartialEq)]
struct Link<'t> {
    image: bool,
    text: &'t str,
    url: &'t str,
}

/// The images a text gives, each once, in order.
pub fn images(content: &str, images: &Images, own: &Own) -> Vec<ImageSource> {
    let text = without_code(content);
    let found = addresses(&text, own);
    let mut taken: Vec<ImageSource> = Vec::new();
    for address in found {
        if address.contains(MARK) {
            taken.extend(
                images
                    .in_text(&address)
                    .into_iter()
                    .filter(|one| !own.has_bytes(&one.sha256))
                    .map(ImageSource::Inline),
            );
        } else {
            taken.push(ImageSource::Url(address));
        }
    }
    taken
}

/// Addresses of images, and marks of inline ones, each once and in order.
pub fn addresses(text: &str, own: &Own) -> Vec<String> {
    let links: Vec<Link> = links(text).into_iter().filter(|link| !own.has_link(link.url)).collect();
    let progress = |url: &str| links.iter().any(|link| link.url == url && is_percentage(link.text));
    let bare = bare_urls(text).into_iter();
    let bare: Vec<&str> = bare.filter(|url| !decoy(url) && !own.has_link(url) && !progress(url)).collect();
    let alone = text.trim();
    let chosen: Vec<&str> = [
        links.iter().filter(|link| link.image && !decoy(link.url)).map(|link| link.url).collect::<Vec<_>>(),
        links.iter().filter(|link| !link.image && downloads(link)).map(|link| link.url).collect(),
        marks(text),
        bare.iter().copied().filter(|url| ends_as_image(url) || *url == alone).collect(),
    ]
    .into_iter()
    .find(|found| !found.is_empty())
    .unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    for url in chosen {
        let url = url.replace("/cdn/download/", "/cdn/");
        if found.len() < MAX_IMAGES && url.len() <= MAX_LINK && !found.contains(&url) {
            found.push(url);
        }
    }
    found
}

/// The first image of one line of an answer that is still coming, as soon as its link is whole and beyond doubt.
pub(super) fn early(line: &str, own: &Own) -> Option<String> {
    let sure = |link: &Link| (link.image && !decoy(link.url)) || downloads(link);
    let address = |link: &Link| !link.url.contains(MARK) && !own.has_link(link.url);
    let found = links(line).into_iter().find(|link| sure(link) && address(link))?;
    Some(found.url.replace("/cdn/download/", "/cdn/"))
}

fn downloads(link: &Link) -> bool {
    let text = link.text.to_lowercase();
    if is_percentage(&text) {
        return false;
    }
    let telling = DOWNLOAD_WORDS.iter().any(|word| text.contains(word));
    !decoy(link.url)
        && (telling || ends_as_image(link.url) || link.url.contains("/image/") || link.url.contains("/cdn/"))
}

/// A link whose text is a percentage leads to how far the image was then.
fn is_percentage(text: &str) -> bool {
    text.trim().trim_end_matches('%').parse::<u8>().is_ok_and(|percent| percent <= 100)
}

/// Whether an address is known to lead to no result.
pub(super) fn decoy(url: &str) -> bool {
    if url.contains(MARK) {
        return false;
    }
    if url.contains(PLACEHOLDER) {
        return true;
    }
    let Ok(url) = Url::parse(url) else { return true };
    let Some(host) = url.host_str() else { return true };
    !matches!(url.scheme(), "http" | "https")
        || PAGE_HOSTS.contains(&host)
        || DECOY_HOSTS
            .iter()
            .any(|decoy| host == *decoy || host.strip_suffix(decoy).is_some_and(|sub| sub.ends_with('.')))
}

/// Whether an address ends as that of an image.
pub(super) fn ends_as_image(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or(url).to_ascii_lowercase();
    ENDINGS.iter().any(|ending| path.ends_with(ending))
}

/// Marks of inline images that stand in the text.
fn marks(text: &str) -> Vec<&str> {
    let at: Vec<usize> = text.match_indices(MARK).map(|(at, _)| at).collect();
    at.chunks_exact(2).map(|pair| &text[pair[0]..pair[1] + MARK.len()]).collect()
}

/// The text without its ``` blocks: what stands there is the request's echo.
pub(super) fn without_code(content: &str) -> String {
    content.split("```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// Markdown links and images, in order. Parentheses inside an address count when they pair up.
fn links(text: &str) -> Vec<Link<'_>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(middle) = text[from..].find("](").map(|at| from + at) {
        let start = middle + 2;
        let Some(end) = closing(&text[start..]).map(|length| start + length) else {
            from = start;
            continue;
        };
        if let Some(open) = text[..middle].rfind('[') {
            let target = text[start..end].trim();
            // A title may follow the address: [x](url "title").
            let url = without_title(target).trim_matches(['<', '>']);
            found.push(Link { image: text[..open].ends_with('!'), text: &text[open + 1..middle], url });
        }
        from = end;
    }
    found
}

/// An address without the title behind it. Blanks within it stay: some vendors do not encode them.
fn without_title(target: &str) -> &str {
    let quoted = target.ends_with(['"', '\'']);
    match target.split_once([' ', '\t']).filter(|_| quoted) {
        Some((_, title)) if title.trim_start().starts_with(['"', '\'']) => {
            target.split([' ', '\t']).next().unwrap_or(target)
        }
        _ => target,
    }
}

/// Where the parenthesis that is open at the start closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '\n' => return None,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Addresses that stand in the text without markdown.
fn bare_urls(text: &str) -> Vec<&str> {
    let starts = text.match_indices("http").map(|(at, _)| &text[at..]);
    let urls = starts.filter(|rest| rest.starts_with("https://") || rest.starts_with("http://"));
    urls.map(|rest| {
        let end = rest.find(|c: char| c.is_whitespace() || "<>\"'`)]|\\".contains(c)).unwrap_or(rest.len());
        rest[..end].trim_end_matches(['.', ',', ';', '!'])
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn images_come_before_downloads_before_bare_addresses() {
        let found = |content: &str| addresses(&without_code(content), &Own::default());
        assert_eq!(
            found("![gen_1](https://a.example/x.png) [Click to download](https://b.example/y.png)"),
            ["https://a.example/x.png"]
        );
        assert_eq!(
            found(
                "[Data Preview](https://asyncdata.net/web/1) | [Source Data](https://asyncdata.net/source/1)\n[100](https://videos.openai.com/a.webp?se=1)\n[Click to download](https://f.example/cdn/download/1.png)\n[点击下载](https://f.example/cdn/1.png)"
            ),
            ["https://f.example/cdn/1.png"]
        );
        assert_eq!(found("Here: https://f.example/a.png."), ["https://f.example/a.png"]);
        for progress in ["https://videos.openai.com/a.webp", "https://cdn.example/a.webp"] {
            assert!(found(&format!("Generation complete ✅ [100]({progress})")).is_empty(), "{progress}");
        }
        assert_eq!(
            found("  https://cdn.example/x?id=1\n"),
            ["https://cdn.example/x?id=1"],
            "nothing but a link"
        );
        assert!(found("See https://cdn.example/x?id=1 for more.").is_empty());
        assert_eq!(found("![a](https://w.example/a cat (1).png)"), ["https://w.example/a cat (1).png"]);
        assert!(found("http://googleusercontent.com/image_generation_content/0").is_empty());
        assert_eq!(found("Look:\u{f8ff}0\u{f8ff} and [x](https://w.example/page)"), ["\u{f8ff}0\u{f8ff}"]);
        assert_eq!(found("![x](\u{f8ff}3\u{f8ff}) ![y](https://w.example/b.png)").len(), 2);
        assert_eq!(
            found("![a](https://w.example/a_(1).png) ![b](https://w.example/b.png \"title\")"),
            ["https://w.example/a_(1).png", "https://w.example/b.png"]
        );
    }

    #[test]
    fn echoes_are_not_results() {
        let found = |content: &str, own: &Own| addresses(&without_code(content), own);
        assert!(
            found("```json\n{\"image_url\":\"https://x.example/e.png\"}\n```\nno", &Own::default())
                .is_empty()
        );
        let request = |body: &str| Own::of(&serde_json::from_str(body).unwrap());
        let prompt = request(r#"{"prompt":"draw ![x](http://127.0.0.1/a.png?a=1&b=2)"}"#);
        assert!(found("You asked: ![x](http://127.0.0.1/a.png?a=1&amp;b=2)", &prompt).is_empty());
        let input = request(r#"{"prompt":"x","images":[{"url":"https://in.example/a.png"}]}"#);
        for echo in
            ["https://in.example/a.png", "HTTPS://in.example:443/a.png#x", " https://in.example/a.png "]
        {
            assert!(found(&format!("![in]({echo})"), &input).is_empty(), "{echo}");
        }
    }

    #[test]
    fn a_link_counts_early_only_when_it_is_whole() {
        let whole = "ok ![gen](https://a.example/x.png)";
        for end in 0..whole.len() {
            assert_eq!(early(&whole[..end], &Own::default()), None);
        }
        assert_eq!(early(whole, &Own::default()).as_deref(), Some("https://a.example/x.png"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]()!` \nhtps:/a.é\u{1f600}]{0,80}") {
            addresses(&text, &Own::default());
            early(&text, &Own::default());
        }
    }
}
