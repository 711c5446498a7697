//! Finds the picture in a chat answer. The text holds an echo of the request, decoy links, progress links and often the
//! same picture twice; what counts is taken in the order of trust (facts: providers B3).

use url::Url;

/// Hosts whose links are previews, progress or pages, never the result.
const DECOY_HOSTS: [&str; 4] = ["asyncdata.net", "videos.openai.com", "piapi.ai", "openai.com"];
const ENDINGS: [&str; 6] = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif"];
const DOWNLOAD_WORDS: [&str; 3] = ["download", "下载", "click"];
/// What is said when the picture is ready.
pub(super) const DONE_WORDS: [&str; 2] = ["generation complete", "生成完成"];

/// One link of the text.
#[derive(Debug, PartialEq)]
struct Link<'t> {
    image: bool,
    text: &'t str,
    url: &'t str,
}

/// The pictures an answer gives, each once, in order. `ours` are texts of our own (the prompt, input addresses): a link
/// found in them is an echo.
pub fn pictures(content: &str, ours: &[&str]) -> Vec<String> {
    let text = without_code(content);
    let links: Vec<Link> =
        links(&text).into_iter().filter(|link| !ours.iter().any(|own| own.contains(link.url))).collect();
    let chosen: Vec<&str> = [
        links.iter().filter(|link| link.image && !decoy(link.url)).map(|link| link.url).collect::<Vec<_>>(),
        links.iter().filter(|link| !link.image && downloads(link)).map(|link| link.url).collect(),
        bare_urls(&text)
            .into_iter()
            .filter(|url| !decoy(url) && ends_as_picture(url) && !ours.iter().any(|own| own.contains(url)))
            .collect(),
    ]
    .into_iter()
    .find(|found| !found.is_empty())
    .unwrap_or_default();
    let mut pictures: Vec<String> = Vec::new();
    for url in chosen {
        let url = url.replace("/cdn/download/", "/cdn/");
        if !pictures.contains(&url) {
            pictures.push(url);
        }
    }
    pictures
}

/// The first picture of one line of an answer that is still coming, as soon as its link is whole and beyond doubt.
pub(super) fn early(line: &str, ours: &[&str]) -> Option<String> {
    let sure = |link: &Link| (link.image && !decoy(link.url)) || downloads(link);
    let echo = |link: &Link| ours.iter().any(|own| own.contains(link.url));
    let found = links(line).into_iter().find(|link| sure(link) && !echo(link))?;
    Some(found.url.replace("/cdn/download/", "/cdn/"))
}

fn downloads(link: &Link) -> bool {
    let text = link.text.to_lowercase();
    let telling = DOWNLOAD_WORDS.iter().any(|word| text.contains(word));
    !decoy(link.url)
        && (telling
            || ends_as_picture(link.url)
            || link.url.contains("/image/")
            || link.url.contains("/cdn/"))
}

/// The last resort where no picture is given: `[100](…)`, once the text says that the picture is complete. Often no more
/// than a preview that does not open.
pub(super) fn preview(content: &str) -> Option<String> {
    let text = without_code(content);
    let lower = text.to_lowercase();
    if !DONE_WORDS.iter().any(|word| lower.contains(word)) {
        return None;
    }
    let preview = links(&text).into_iter().rfind(|link| link.text.trim() == "100")?;
    Some(preview.url.to_owned())
}

fn decoy(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return true };
    let Some(host) = url.host_str() else { return true };
    !matches!(url.scheme(), "http" | "https")
        || DECOY_HOSTS
            .iter()
            .any(|decoy| host == *decoy || host.strip_suffix(decoy).is_some_and(|sub| sub.ends_with('.')))
}

fn ends_as_picture(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or(url).to_ascii_lowercase();
    ENDINGS.iter().any(|ending| path.ends_with(ending))
}

/// The text without its ``` blocks: what stands there is the request's echo.
fn without_code(content: &str) -> String {
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
            let url = target.split_whitespace().next().unwrap_or_default().trim_matches(['<', '>']);
            found.push(Link { image: text[..open].ends_with('!'), text: &text[open + 1..middle], url });
        }
        from = end;
    }
    found
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
        let found = |content: &str| pictures(content, &[]);
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
        let only = "Generation complete ✅ [100](https://videos.openai.com/a.webp)";
        assert!(found(only).is_empty());
        assert_eq!(preview(only).as_deref(), Some("https://videos.openai.com/a.webp"));
        assert_eq!(preview("Progress [100](https://videos.openai.com/a.webp)"), None);
        assert_eq!(
            found("![a](https://w.example/a_(1).png) ![b](https://w.example/b.png \"title\")"),
            ["https://w.example/a_(1).png", "https://w.example/b.png"]
        );
    }

    #[test]
    fn echoes_are_not_results() {
        assert!(pictures("```json\n{\"image_url\":\"https://x.example/e.png\"}\n```\nno", &[]).is_empty());
        let prompt = "draw ![x](http://127.0.0.1/a.png)";
        assert!(pictures("You asked: ![x](http://127.0.0.1/a.png)", &[prompt]).is_empty());
        assert!(pictures("![in](https://in.example/a.png)", &["https://in.example/a.png"]).is_empty());
    }

    #[test]
    fn a_link_counts_early_only_when_it_is_whole() {
        let whole = "ok ![gen](https://a.example/x.png)";
        for end in 0..whole.len() {
            assert_eq!(early(&whole[..end], &[]), None);
        }
        assert_eq!(early(whole, &[]).as_deref(), Some("https://a.example/x.png"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]()!` \nhtps:/a.é\u{1f600}]{0,80}") {
            pictures(&text, &[]);
            early(&text, &[]);
            preview(&text);
        }
    }
}
