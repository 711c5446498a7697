//! What must not be reached: a trap that counts who comes, every spelling that leads to it, and a resolver whose names do.
//! It stands on loopback; in a network of its own, where every address is local, it stands on all of them.

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use easel::net::{Lookup, SystemLookup};
use tokio::net::TcpStream;

use crate::harness::PATIENCE;

/// Set by who runs tests in a network where every address is local.
pub const EVERYWHERE: &str = "EASEL_TEST_TRAP_EVERYWHERE";

/// Ports that the cases name; only a network of our own has them all to spare.
const NAMED_PORTS: [u16; 8] = [21, 22, 25, 70, 80, 443, 5432, 6379];

/// Listens, and counts who comes.
pub struct Trap {
    pub port: u16,
    caught: Arc<AtomicUsize>,
}

impl Trap {
    #[expect(clippy::disallowed_methods, reason = "says in what kind of network the test runs")]
    pub async fn set() -> Self {
        if std::env::var(EVERYWHERE).is_ok() { Self::everywhere().await } else { Self::on_loopback().await }
    }

    /// Both families. Not every machine has the other one, and 127.0.0.1 is what most of the cases mean.
    async fn on_loopback() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let trap = Self::of(port, [first].into_iter().chain(TcpListener::bind(("::1", port))));
        trap.try_at(&["127.0.0.1"]).await;
        trap
    }

    /// Every address of both families, at a port of its own and at the named ones.
    async fn everywhere() -> Self {
        let first = TcpListener::bind("[::]:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let named = NAMED_PORTS.map(|port| TcpListener::bind(("::", port)).unwrap());
        let trap = Self::of(port, [first].into_iter().chain(named));
        trap.try_at(&["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "8.8.8.8", "fd00:ec2::254"]).await;
        trap
    }

    fn of(port: u16, listeners: impl Iterator<Item = TcpListener>) -> Self {
        let caught = Arc::new(AtomicUsize::new(0));
        for listener in listeners {
            let caught = Arc::clone(&caught);
            std::thread::spawn(move || {
                while listener.accept().is_ok() {
                    caught.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, caught }
    }

    /// It works: what comes is counted.
    async fn try_at(&self, addresses: &[&str]) {
        for address in addresses {
            TcpStream::connect((*address, self.port)).await.unwrap();
            let counted = async {
                while self.caught.swap(0, Ordering::SeqCst) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, counted).await.expect("it counts");
        }
    }

    pub fn is_untouched(&self) -> bool {
        self.caught.load(Ordering::SeqCst) == 0
    }

    /// The cases that need no names, with this trap's port where one can stand.
    pub fn addresses(&self) -> Vec<(&'static str, String)> {
        let port = self.port;
        let at = |host: &str| format!("http://{host}:{port}/a.png");
        let mut cases = vec![
            ("S1", at("2130706433")),
            ("S2", at("0x7f.1")),
            ("S3", at("0177.0.0.1")),
            ("S4", at("127.1")),
            ("S5", at("0")),
            ("S6", at("①②⑦.⓪.⓪.①")),
            ("S7", at("127。0。0。1")),
            ("S8", format!("http:\\\\127.0.0.1:{port}\\a.png")),
            ("S9", at("127.0.0.1.")),
            ("S10", at("[::1]")),
            ("S11", at("[::]")),
            ("S12", at("[::ffff:7f00:1]")),
            ("S13", at("[::127.0.0.1]")),
            ("S14", at("[64:ff9b::7f00:1]")),
            ("S15", at("[2002:7f00:1::]")),
            ("S16", at("[fe80::1%25eth0]")),
            ("S17", at("169.254.169.254")),
            ("S17", at("169.254.169.254.")),
            ("S17", at("100.100.100.200")),
            ("S17", at("[fd00:ec2::254]")),
            ("S21", format!("http://user:pass@127.0.0.1:{port}/")),
            ("S21", "https://user:pass@foo.internal/".into()),
            ("S21", format!("http://a@127.0.0.1:{port}/")),
            ("S21", format!("http://127.0.0.1:{port}/#@example.com")),
            ("S24", "https://example.com:0/".into()),
            ("S24", "https://example.com:99999/".into()),
            ("S28", "https://xn--a/".into()),
            ("S28", "https://xn--/".into()),
        ];
        let schemes = [
            "file:///etc/passwd",
            "gopher://127.0.0.1/",
            "ftp://127.0.0.1/a",
            "data:image/png;base64,AA==",
            "jar:http://127.0.0.1!/",
            "unix:/tmp/x",
        ];
        cases.extend(schemes.map(|url| ("S23", url.to_owned())));
        cases.extend([22, 25, 6379, 5432].map(|port| ("S24", format!("https://example.com:{port}/"))));
        cases
    }

    /// The cases that are names, which [`Names`] answers.
    pub fn names(&self) -> Vec<(&'static str, String)> {
        let at = |host: &str| format!("http://{host}:{}/a.png", self.port);
        [
            ("S17", "metadata.google.internal"),
            ("S18", "loopback.example"),
            ("S18", "mixed.example"),
            ("S18", "six.example"),
            ("S18", "mapped.example"),
            ("S22", "localhost"),
            ("S22", "localhost."),
            ("S22", "LOCALHOST"),
            ("S22", "foo.internal"),
            ("S22", "x.local"),
            ("S22", "127.0.0.1.nip.io"),
        ]
        .map(|(case, host)| (case, at(host)))
        .to_vec()
    }

    pub fn all(&self) -> Vec<(&'static str, String)> {
        [self.addresses(), self.names()].concat()
    }
}

/// A resolver that says what a test tells it to, and counts how often it is asked. Other names are the system's to answer.
#[derive(Default)]
pub struct Names {
    pub asked: Mutex<HashMap<String, usize>>,
}

impl Names {
    fn told(&self, host: &str) -> Option<&'static [&'static str]> {
        let mut asked = self.asked.lock().unwrap();
        let times = asked.entry(host.to_owned()).or_default();
        *times += 1;
        Some(match (host.trim_end_matches('.'), *times) {
            ("metadata.google.internal", _) => &["169.254.169.254"],
            ("mixed.example", _) => &["8.8.8.8", "10.0.0.1"],
            ("six.example", _) => &["::1"],
            ("mapped.example", _) => &["::ffff:127.0.0.1"],
            ("foo.internal" | "x.local", _) => &["10.0.0.1"],
            // The first answer may be reached, every later one leads into the trap.
            ("rebinding.example", 1) | ("open.example", _) => &["127.0.0.2"],
            ("rebinding.example" | "loopback.example" | "localhost" | "127.0.0.1.nip.io", _) => {
                &["127.0.0.1"]
            }
            _ => return None,
        })
    }
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, host: &str) -> Vec<IpAddr> {
        match self.told(host) {
            Some(answers) => answers.iter().map(|ip| ip.parse().unwrap()).collect(),
            None => SystemLookup.lookup(host).await,
        }
    }
}
