//! `[server]`: how callers come in.

use std::net::SocketAddr;

use serde::Deserialize;
use url::Url;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Server {
    pub listen: SocketAddr,
    pub public_url: String,
    pub max_json_kib: usize,
    pub heartbeat_s: u32,
    pub streams_per_tenant: usize,
    pub hosts: Vec<String>,
    pub connections: usize,
    pub header_s: u32,
    pub body_s: u32,
    pub idle_s: u32,
    pub write_stall_s: u32,
    pub handler_s: u32,
    pub busy: usize,
}

impl Server {
    pub(super) fn check(&self, wrong: &mut impl FnMut(String)) {
        let http = |text: &str| {
            Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        if !self.public_url.is_empty() && !http(&self.public_url) {
            wrong(format!("server.public_url: {:?} is not an http address", self.public_url));
        }
        if self.max_json_kib > 45 * 1024 {
            wrong("server.max_json_kib: must be at most 46080; upload larger images with POST /files".into());
        }
        for host in &self.hosts {
            if host.is_empty() || host.contains(['/', '@', ' ']) {
                wrong(format!("server.hosts: {host:?} is not a host, such as \"easel.example.com\""));
            }
        }
        let lengths = [
            ("max_json_kib", self.max_json_kib as u64, 64),
            ("heartbeat_s", u64::from(self.heartbeat_s), 1),
            ("connections", self.connections as u64, 1),
            ("header_s", u64::from(self.header_s), 1),
            ("body_s", u64::from(self.body_s), 1),
            ("idle_s", u64::from(self.idle_s), 1),
            ("write_stall_s", u64::from(self.write_stall_s), 1),
            ("handler_s", u64::from(self.handler_s), 1),
            ("busy", self.busy as u64, 1),
        ];
        for (name, value, least) in lengths {
            if value < least {
                wrong(format!("server.{name}: must be at least {least}"));
            }
        }
    }
}
