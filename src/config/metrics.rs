//! `[metrics]`: where figures are shown.

use std::net::SocketAddr;

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Metrics {
    pub listen: String,
}

impl Metrics {
    /// The address of their own, if they have one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    pub(super) fn check(&self, public: SocketAddr, wrong: &mut impl FnMut(String)) {
        match self.address() {
            _ if self.listen.is_empty() => {}
            None => wrong(format!("metrics.listen: {:?} is not an address and port", self.listen)),
            Some(own) if own == public && own.port() != 0 => {
                wrong("metrics.listen: is server.listen; leave it empty to show figures there".into());
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_its_own_is_one() {
        let faults = |listen: &str| {
            let mut faults = Vec::new();
            let public = "127.0.0.1:8080".parse().unwrap();
            Metrics { listen: listen.to_owned() }.check(public, &mut |fault| faults.push(fault));
            faults.len()
        };
        assert_eq!((faults(""), faults("127.0.0.1:9090"), faults("127.0.0.1:0")), (0, 0, 0));
        assert_eq!((faults("9090"), faults("127.0.0.1:8080")), (1, 1));
    }
}
