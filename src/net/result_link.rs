//! Links to results, as providers write them, and which of them may be fetched. They are signed, long, and
//! seldom tidy: up to 16 KiB, with credentials, on any port where no other service is known to listen,
//! unescaped, quoted, taken out of HTML. Which hosts and addresses may be reached is decided as for callers;
//! nothing here opens a network.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use url::Url;

use super::policy::{CLOSED_PORTS, Policy, Refused};

/// The longest link, in bytes as it was written.
pub const MAX_RESULT_LINK: usize = 16 * 1024;

/// Ports where something else than a web server listens, beside [`CLOSED_PORTS`]: what browsers refuse (the
/// Fetch standard's "bad ports"), SMB, rsync.
const CLOSED_RESULT_PORTS: [u16; 80] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 138, 139, 143, 161, 179, 389, 427, 445, 465, 512,
    513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 873, 989, 990, 993, 995, 1719,
    1720, 1723, 2049, 3659, 4045, 4190, 6665, 6666, 6667, 6668, 6669, 6679,
];

/// A link whose credentials have been taken out. It has no `Debug`: a link may be a secret.
pub(super) struct ResultLink {
    /// Where it leads, without credentials and fragment.
    pub url: Url,
    /// The credentials as an `Authorization` header: for the first request alone, to no redirect's target.
    pub authorization: Option<HeaderValue>,
}

impl ResultLink {
    /// Reads a link. White space and quotes around it are dropped, blanks and other letters are escaped,
    /// `//host` means https, and what HTML or JSON made of its `&` and `/` is undone once. Percent-encoding
    /// stays as it is: a signature may cover it.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        if text.len() > MAX_RESULT_LINK {
            return Err(Refused::Syntax("too long"));
        }
        let text = unquoted(text).replace("&amp;", "&").replace("\\u0026", "&").replace("\\/", "/");
        let text = if text.starts_with("//") { format!("https:{text}") } else { text };
        let url = Url::parse(&text).map_err(|_| Refused::Syntax("not a URL"))?;
        let authorization = authorization(&url);
        Ok(Self { authorization, ..Self::from(url) })
    }

    /// The same over TLS: at port 443 when it names none, at its own port otherwise.
    pub fn over_tls(&self) -> Url {
        let mut url = self.url.clone();
        if url.scheme() == "http" {
            let _ = url.set_scheme("https");
        }
        url
    }
}

/// A URL without its credentials, which nobody is shown: a redirect's target.
impl From<Url> for ResultLink {
    fn from(mut url: Url) -> Self {
        url.set_fragment(None);
        // Only URLs without a host cannot have credentials, and those are refused.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Self { url, authorization: None }
    }
}

impl Policy {
    /// Checks all of a provider's link that can be checked before its name is resolved. Whether plain http is
    /// allowed depends on the provider account and is not asked here.
    pub(super) fn vet_result(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err(Refused::Syntax("scheme"));
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if CLOSED_RESULT_PORTS.contains(&port) || CLOSED_PORTS.contains(&port) {
            return Err(Refused::Syntax("port"));
        }
        self.vet_host(url)
    }
}

/// The credentials of a URL for HTTP's Basic scheme, percent-decoded.
fn authorization(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut credentials: Vec<u8> = percent_decode_str(url.username()).collect();
    credentials.push(b':');
    credentials.extend(percent_decode_str(url.password().unwrap_or_default()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(credentials))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A link without what it stands in: white space, invisible letters and quotes that no URL has are dropped on
/// either side, those that one may have in pairs.
fn unquoted(mut text: &str) -> &str {
    let outside = |letter: char| {
        letter.is_whitespace() || letter.is_control() || "<>\"`“”\u{feff}\u{200b}".contains(letter)
    };
    loop {
        text = text.trim_matches(outside);
        let pairs = [('\'', '\''), ('(', ')'), ('[', ']')];
        let inside = pairs.iter().find_map(|(open, close)| text.strip_prefix(*open)?.strip_suffix(*close));
        let Some(inside) = inside else { return text };
        text = inside;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        ResultLink::parse(text).map_or_else(|why| format!("{why:?}"), |link| link.url.into())
    }

    fn shown(text: &str) -> Option<String> {
        let value = ResultLink::parse(text).ok()?.authorization?;
        assert!(value.is_sensitive());
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        Some(String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap())
    }

    #[test]
    fn links_are_read_as_vendors_write_them() {
        let plain = "https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1";
        for written in [
            plain,
            "  https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1\r\n",
            "<https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1>",
            " \"https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1\" ",
            "\u{feff}https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1\u{200b}>",
            "(https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1)",
            "'<https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1>'",
            "https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&amp;exp=1",
            "https://cdn.example/a.png?sig=a%2Bb%2Fc%3D\\u0026exp=1",
            "https:\\/\\/cdn.example\\/a.png?sig=a%2Bb%2Fc%3D&exp=1",
            "//cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1",
            "https://cdn.example/a.png?sig=a%2Bb%2Fc%3D&exp=1#page",
            "HTTPS://CDN.example:443/a.png?sig=a%2Bb%2Fc%3D&exp=1",
        ] {
            assert_eq!(read(written), plain, "{written}");
        }
        for (written, read_as) in [
            ("https://h.example/a cat.png?t=a cat", "https://h.example/a%20cat.png?t=a%20cat"),
            ("https://h.example/кот.png", "https://h.example/%D0%BA%D0%BE%D1%82.png"),
            ("https://h.example/[1]{2}.png?a[]=1", "https://h.example/[1]%7B2%7D.png?a[]=1"),
            ("https://h.example/a%20b%2fc+d?x=%zz&y=a+b", "https://h.example/a%20b%2fc+d?x=%zz&y=a+b"),
            ("https://h.example/?a=1&amp;amp;b", "https://h.example/?a=1&amp;b"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ] {
            assert_eq!(read(written), read_as, "{written}");
        }
        for none in ["", "a cat", "cdn.example/a.png", "/a.png", "https://", "https://xn--a/"] {
            assert!(ResultLink::parse(none).is_err(), "{none}");
        }
    }

    #[test]
    fn links_may_be_16_kib_long() {
        let link = |length: usize| format!("https://h.example/?{}", "x".repeat(length - 19));
        assert_eq!(read(&link(MAX_RESULT_LINK)).len(), MAX_RESULT_LINK);
        assert_eq!(read(&link(MAX_RESULT_LINK + 1)), "Syntax(\"too long\")");
    }

    #[test]
    fn credentials_are_taken_out_and_decoded() {
        for (link, credentials) in [
            ("https://user:pass@h.example/a", Some("user:pass")),
            ("https://us%40er:p%3Aa%2Fss+w@h.example/a", Some("us@er:p:a/ss+w")),
            ("https://user@h.example/a", Some("user:")),
            ("https://:pass@h.example/a", Some(":pass")),
            ("https://@h.example/a", None),
            ("https://h.example/a@b", None),
        ] {
            assert_eq!(shown(link).as_deref(), credentials, "{link}");
            assert!(!read(link).contains("pass"), "{link}");
        }
        let target = Url::parse("https://user:pass@h.example/a#b").unwrap();
        assert_eq!(ResultLink::from(target).url.as_str(), "https://h.example/a");
    }

    #[test]
    fn ports_are_open_but_for_known_services() {
        let vetted = |link: &str| Policy::default().vet_result(&ResultLink::parse(link).unwrap().url);
        for port in [80, 81, 88, 443, 444, 800, 1023, 1024, 3000, 8080, 8443, 9000, 65_535] {
            assert_eq!(vetted(&format!("https://h.example:{port}/")), Ok(()), "{port}");
        }
        for port in CLOSED_RESULT_PORTS.into_iter().chain(CLOSED_PORTS) {
            let link = format!("https://h.example:{port}/");
            assert_eq!(vetted(&link), Err(Refused::Syntax("port")), "{port}");
        }
        for link in ["ftp://h.example/a", "file:///etc/passwd", "data:image/png;base64,AA==", "unix:/tmp/x"] {
            assert_eq!(vetted(link), Err(Refused::Syntax("scheme")), "{link}");
        }
        for link in
            ["http://127.0.0.1/", "https://u:p@10.0.0.1:81/", "//[::1]/", "<http:\\/\\/169.254.169.254/>"]
        {
            assert_eq!(vetted(link), Err(Refused::Syntax("address")), "{link}");
        }
    }

    #[test]
    fn tls_is_tried_at_the_port_of_its_own_or_the_one_that_is_named() {
        for (link, secure) in [
            ("http://h.example/a", "https://h.example/a"),
            ("http://h.example:80/a", "https://h.example/a"),
            ("http://h.example:8080/a?b", "https://h.example:8080/a?b"),
            ("http://h.example:443/a", "https://h.example/a"),
            ("https://h.example:8443/a", "https://h.example:8443/a"),
        ] {
            assert_eq!(ResultLink::parse(link).unwrap().over_tls().as_str(), secure, "{link}");
        }
    }

    proptest! {
        /// What is read can be asked for, and the escapes of what was written are still there.
        #[test]
        fn whatever_is_written_can_be_asked_for(
            path in "[ -~а-я猫\\PC]{0,60}",
            query in "(%[0-9A-F]{2}|[a-zA-Z0-9=&+/~_.-]){0,60}",
        ) {
            let written = format!("https://h.example/{}?{query}", path.replace(['?', '#'], ""));
            if let Ok(link) = ResultLink::parse(&written) {
                let asked = http::Uri::try_from(link.url.as_str());
                prop_assert!(asked.is_ok(), "{} {asked:?}", link.url);
                prop_assert_eq!(link.url.query(), Some(query.as_str()), "{}", written);
                prop_assert_eq!(link.url.host_str(), Some("h.example"));
            }
        }

        /// No spelling leads to what is closed.
        #[test]
        fn no_spelling_opens_a_network(
            before in "[ \"'<`\\\\/]{0,4}",
            scheme in prop::sample::select(vec!["http:", "https:", "", "http:\\", "https:\\/"]),
            slashes in prop::sample::select(vec!["//", "\\/\\/", "\\\\", "///"]),
            user in prop::sample::select(vec!["", "u:p@", "8.8.8.8@", "&amp;@", "h.example\\/@"]),
            host in prop::sample::select(vec![
                "127.0.0.1", "2130706433", "0x7f.1", "[::1]", "10.1.2.3", "[::ffff:10.0.0.1]",
                "169.254.169.254.",
            ]),
            after in "[/?#][ -~]{0,20}",
        ) {
            let written = format!("{before}{scheme}{slashes}{user}{host}{after}");
            if let Ok(link) = ResultLink::parse(&written) && Policy::default().vet_result(&link.url).is_ok() {
                // What stands before a slash is a host's name, to be judged when it is looked up.
                let named = matches!(link.url.host(), Some(url::Host::Domain(_)));
                prop_assert!(named, "{written}: {}", link.url);
            }
        }

        #[test]
        fn no_link_panics(text in "\\PC{0,200}") {
            let _ = ResultLink::parse(&text);
        }
    }
}
