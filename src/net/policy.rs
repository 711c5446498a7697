//! Which addresses may be reached on somebody else's word: a caller's image, a webhook, every redirect;
//! `result_link` adds what holds for a provider's links. Decided on the parsed host and on the resolved
//! address, never on the text; one refusal, which tells nothing about the network behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;
use ipnet::IpNet;
use url::{Host, Url};

use crate::domain::validate::MAX_URL;

/// The longest name that can be looked up, in bytes (RFC 1035).
const MAX_NAME: usize = 253;

/// The address may not be reached. Its text is the same whatever the reason, which is for the log alone.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the URL is not allowed")]
pub enum Refused {
    /// The URL itself says so: its scheme, port, length, host or spelling. Trying again cannot help.
    Syntax(&'static str),
    /// A redirect named a URL that is refused so. The server may send us elsewhere another time.
    Redirect(&'static str),
    /// The name resolves to an address in a closed network. It may be put right in DNS.
    Address,
}

/// Turns names into addresses.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// Every address of `host`; empty when it has none.
    async fn lookup(&self, host: &str) -> Vec<IpAddr>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> Vec<IpAddr> {
        match tokio::net::lookup_host((host, 0)).await {
            Ok(addresses) => addresses.map(|address| address.ip()).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// Ports below 1024 that serve the web; higher ones are open but for [`CLOSED_PORTS`].
const LOW_PORTS: [u16; 2] = [80, 443];

/// Higher ports where something else than a web server listens: databases, queues, caches, and what browsers refuse.
pub(super) const CLOSED_PORTS: [u16; 27] = [
    1433, 1521, 1719, 1720, 1723, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 3659, 4045, 4190, 5060, 5061,
    5432, 5672, 6000, 6379, 6566, 6697, 9042, 10080, 11211, 27017,
];

/// The outbound policy.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Private networks the operator has opened. Loopback and link-local addresses are open only when a network given
    /// here lies wholly within them: `0.0.0.0/0` does not open the metadata service.
    pub allow_private: Vec<IpNet>,
    /// Whether plain `http` is allowed.
    pub allow_http: bool,
}

impl Policy {
    /// Parses an address and checks all that can be checked before its name is resolved.
    pub fn vet(&self, text: &str) -> Result<Url, Refused> {
        if text.len() > MAX_URL {
            return Err(Refused::Syntax("too long"));
        }
        let url = Url::parse(text).map_err(|_| Refused::Syntax("not a URL"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            _ => return Err(Refused::Syntax("scheme")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Syntax("credentials in the URL"));
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port < 1024 && !LOW_PORTS.contains(&port) || CLOSED_PORTS.contains(&port) {
            return Err(Refused::Syntax("port"));
        }
        self.vet_host(&url)?;
        Ok(url)
    }

    /// Checks the host of a URL: a name that can be looked up, or an address that may be connected to.
    pub(super) fn vet_host(&self, url: &Url) -> Result<(), Refused> {
        let closed = |_| Refused::Syntax("address");
        match url.host() {
            Some(Host::Ipv4(ip)) => self.admit(ip.into()).map_err(closed),
            Some(Host::Ipv6(ip)) => self.admit(ip.into()).map_err(closed),
            Some(Host::Domain(name)) if name.len() > MAX_NAME => Err(Refused::Syntax("host name too long")),
            Some(Host::Domain(name)) if !name.is_empty() => Ok(()),
            _ => Err(Refused::Syntax("no host")),
        }
    }

    /// Whether one address may be connected to.
    pub fn admit(&self, ip: IpAddr) -> Result<(), Refused> {
        let ip = ip.to_canonical();
        let near = near(ip);
        let named = |net: &IpNet| net.contains(&ip) && near.iter().all(|never| never.contains(net));
        if self.allow_private.iter().any(named) {
            return Ok(());
        }
        if public(ip) { Ok(()) } else { Err(Refused::Address) }
    }

    /// Whether the world at large can reach an address, or only we can. A name that has no address here is left to whoever
    /// fetches it.
    pub async fn reach(&self, lookup: &dyn Lookup, url: &Url) -> Result<Reach, Refused> {
        let addresses = match url.host() {
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            _ => self.resolve(lookup, url.host_str().unwrap_or_default()).await?,
        };
        Ok(if addresses.into_iter().all(public) { Reach::Public } else { Reach::Private })
    }

    /// The addresses of a name, all of them admitted: a name with one forbidden answer is refused as a whole.
    pub async fn resolve(&self, lookup: &dyn Lookup, host: &str) -> Result<Vec<IpAddr>, Refused> {
        let addresses = lookup.lookup(host).await;
        addresses.iter().try_for_each(|ip| self.admit(*ip))?;
        Ok(addresses)
    }
}

/// The networks that must be named one by one, of those `ip` is in.
fn near(ip: IpAddr) -> Vec<IpNet> {
    const NETS: [(IpAddr, u8); 4] = [
        (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    ];
    let nets = NETS.into_iter().filter_map(|(base, length)| IpNet::new(base, length).ok());
    nets.filter(|net| net.contains(&ip)).collect()
}

/// Who can reach an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everybody.
    Public,
    /// We, and others on our networks.
    Private,
}

/// Whether an address says in numbers that only we can reach it. One that says it by a name is found out when it is resolved.
pub fn private_literal(address: &str) -> bool {
    let url = Url::parse(address);
    match url.as_ref().ok().and_then(Url::host) {
        Some(Host::Ipv4(ip)) => !public(ip.into()),
        Some(Host::Ipv6(ip)) => !public(ip.into()),
        _ => false,
    }
}

fn public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => public_v4(ip),
        IpAddr::V6(ip) => public_v6(ip),
    }
}

/// Outside every block of the IANA special-purpose registry.
fn public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || a == 10
        || a == 127
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 31 && c == 196)
        || (a == 192 && b == 52 && c == 193)
        || (a == 192 && b == 88 && c == 99)
        || (a == 192 && b == 168)
        || (a == 192 && b == 175 && c == 48)
        || (a == 198 && (b == 18 || b == 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

/// Within global unicast and outside what is special there: an allow-list, because deny-lists miss embedded addresses.
fn public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let global = a & 0xe000 == 0x2000;
    let special = (a == 0x2001 && (b < 0x0200 || b == 0x0db8))
        || a == 0x2002
        || (a == 0x2620 && b == 0x004f)
        || (a == 0x3fff && b < 0x1000);
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: &Policy, text: &str) -> bool {
        policy.vet(text).is_err()
    }

    #[test]
    fn spellings_of_this_machine_and_its_neighbours_are_refused() {
        let policy = Policy { allow_http: true, ..Policy::default() };
        for text in [
            "http://2130706433",
            "http://0x7f.1",
            "http://0177.0.0.1",
            "http://127.1",
            "http://0",
            "http://①②⑦.⓪.⓪.①",
            "http://127。0。0。1",
            "http:\\\\127.0.0.1",
            "http://127.0.0.1.",
            "http://[::1]",
            "http://[::]",
            "http://[::ffff:7f00:1]",
            "http://[::127.0.0.1]",
            "http://[64:ff9b::7f00:1]",
            "http://[2002:7f00:1::]",
            "http://[fe80::1%25eth0]",
            "http://[fe80::1]",
            "http://169.254.169.254",
            "http://169.254.169.254.",
            "http://100.100.100.200",
            "http://[fd00:ec2::254]",
            "http://10.0.0.1",
            "http://192.168.1.1",
            "http://172.31.255.255",
            "http://255.255.255.255",
            "https://user:pass@example.com",
            "https://a@127.0.0.1",
            "https://127.0.0.1#@example.com",
            "file:///etc/passwd",
            "gopher://example.com",
            "ftp://example.com",
            "data:text/plain,x",
            "jar:http://example.com!/",
            "unix:/tmp/x",
            "https://example.com:22",
            "https://example.com:25",
            "https://example.com:6379",
            "https://example.com:5432",
            "https://example.com:0",
            "https://example.com:99999",
            "https://",
            "https://xn--a",
            "not a url",
        ] {
            assert!(refused(&policy, text), "{text}");
        }
        for text in [
            "https://example.com/a.png?x=1#y",
            "http://8.8.8.8/",
            "https://[2606:4700::1111]/",
            "https://example.com:8443/",
        ] {
            assert!(!refused(&policy, text), "{text}");
        }
        assert!(refused(&Policy::default(), "http://example.com"), "plain http is closed unless opened");
        assert!(refused(&policy, &format!("https://example.com/{}", "x".repeat(MAX_URL))));
        assert!(refused(&policy, &format!("https://{}com/", "label.".repeat(42))));
        assert!(!refused(&policy, &format!("https://{}com/", "label.".repeat(41))));
    }

    #[test]
    fn named_networks_open_but_not_by_accident() {
        let open = |nets: &[&str]| Policy {
            allow_private: nets.iter().map(|net| net.parse().unwrap()).collect(),
            allow_http: true,
        };
        assert!(!refused(&open(&["10.1.0.0/16"]), "http://10.1.2.3/"));
        assert!(refused(&open(&["10.1.0.0/16"]), "http://10.2.0.1/"));
        assert!(refused(&open(&["0.0.0.0/0"]), "http://169.254.169.254/"));
        assert!(refused(&open(&["0.0.0.0/0", "::/0"]), "http://127.0.0.1/"));
        assert!(!refused(&open(&["127.0.0.1/32"]), "http://127.0.0.1:8080/"));
        assert!(refused(&open(&["127.0.0.1/32"]), "http://127.0.0.2/"));
        assert!(!refused(&open(&["127.0.0.1/32"]), "http://[::ffff:127.0.0.1]/"));
    }

    #[test]
    fn numbers_tell_who_can_reach_them() {
        for private in [
            "http://10.1.2.3/a.png",
            "http://127.0.0.1:80/",
            "https://[fd00::1]/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            assert!(private_literal(private), "{private}");
        }
        for other in ["https://8.8.8.8/", "https://[2606:4700::1111]/", "https://example.com/", "nothing"] {
            assert!(!private_literal(other), "{other}");
        }
    }

    struct Names(&'static [&'static str]);

    #[async_trait]
    impl Lookup for Names {
        async fn lookup(&self, _host: &str) -> Vec<IpAddr> {
            self.0.iter().map(|ip| ip.parse().unwrap()).collect()
        }
    }

    #[tokio::test]
    async fn one_forbidden_answer_refuses_the_name() {
        let policy = Policy::default();
        assert!(policy.resolve(&Names(&["8.8.8.8"]), "a").await.is_ok());
        for answers in [&["127.0.0.1"][..], &["8.8.8.8", "10.0.0.1"], &["::1"], &["::ffff:10.0.0.1"]] {
            assert!(policy.resolve(&Names(answers), "a").await.is_err(), "{answers:?}");
        }
    }
}
