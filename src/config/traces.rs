//! `[traces]`: where spans are sent.

use serde::Deserialize;
use url::Url;

use super::Secret;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Traces {
    pub endpoint: Secret,
    pub service: String,
    pub sample: f64,
}

impl Traces {
    /// The collector's address for spans; `None`: nothing is traced.
    pub fn collector(&self) -> Option<Url> {
        let mut url = Url::parse(self.endpoint.get()?).ok()?;
        url.path_segments_mut().ok()?.pop_if_empty().extend(["v1", "traces"]);
        Some(url)
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(String)) {
        // The address may carry a password: it is not repeated.
        let http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        if self.endpoint.get().is_some() && !self.collector().as_ref().is_some_and(http) {
            wrong(format!("traces.endpoint: no http or https address ({})", self.endpoint.origin()));
        }
        if self.collector().is_some_and(|url| !url.username().is_empty() || url.password().is_some()) {
            wrong(format!(
                "traces.endpoint: a user and password are not sent from the address; set OTEL_EXPORTER_OTLP_HEADERS ({})",
                self.endpoint.origin()
            ));
        }
        if self.service.trim().is_empty() {
            wrong("traces.service: must name this gateway".into());
        }
        if !(0.0..=1.0).contains(&self.sample) {
            wrong("traces.sample: must be from 0 to 1".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(endpoint: &str, service: &str, sample: f64) -> Traces {
        let text = format!("endpoint = {endpoint:?}\nservice = {service:?}\nsample = {sample:?}");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn spans_go_below_the_endpoint() {
        let to = |endpoint: &str| traces(endpoint, "easel", 1.0).collector().map(String::from);
        assert_eq!(to("http://c:4318").as_deref(), Some("http://c:4318/v1/traces"));
        assert_eq!(to("https://c/otlp/").as_deref(), Some("https://c/otlp/v1/traces"));
        assert_eq!(to(""), None);
    }

    #[test]
    fn every_fault_is_told_and_no_password() {
        let faults = |traces: Traces| {
            let mut faults = Vec::new();
            traces.check(&mut |fault| faults.push(fault));
            faults
        };
        assert_eq!(faults(traces("", "easel", 0.0)), Vec::<String>::new());
        let told = faults(traces("ftp://user:hidden@c", " ", 1.5));
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(!told.join("").contains("hidden"));
        assert_eq!(faults(traces("collector:4318", "easel", 0.5)).len(), 1);
        assert_eq!(faults(traces("https://user:pw@c", "easel", 0.5)).len(), 1);
    }
}
