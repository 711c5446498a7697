//! `[blobs]`: where pictures are kept and how they get there, and for how long their links hold.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::Secret;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Blobs {
    pub url: String,
    pub link_s: u32,
    pub min_free_mib: u32,
    pub min_free_percent: u8,
    pub downloads: usize,
    pub stall_s: u32,
    pub endpoint: String,
    pub region: String,
    pub access_key_id: Secret,
    pub secret_access_key: Secret,
    pub path_style: bool,
    pub allow_http: bool,
    pub redirect: bool,
    pub spool: String,
    pub spool_mib: u32,
}

/// The spool's folder where it is not named: below the pictures' folder, or beside the working directory's files.
const SPOOL: &str = "spool";
const SPOOL_BESIDE_A_BUCKET: &str = "easel-spool";

impl Blobs {
    /// Where answers and images wait for the blob store.
    pub fn spool_folder(&self) -> PathBuf {
        match (self.spool.as_str(), self.folder()) {
            ("", Some(folder)) => PathBuf::from(folder).join(SPOOL),
            ("", None) => PathBuf::from(SPOOL_BESIDE_A_BUCKET),
            (named, _) => PathBuf::from(named),
        }
    }

    /// The folder that pictures are kept in, where it is one.
    pub(super) fn folder(&self) -> Option<&str> {
        self.url.strip_prefix("file://").filter(|folder| !folder.is_empty())
    }

    pub(super) fn resolve(&mut self, resolve: &mut impl FnMut(String, &mut Secret)) {
        resolve("blobs.access_key_id".into(), &mut self.access_key_id);
        resolve("blobs.secret_access_key".into(), &mut self.secret_access_key);
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(String)) {
        let lengths = [
            ("link_s", u64::from(self.link_s)),
            ("downloads", self.downloads as u64),
            ("stall_s", u64::from(self.stall_s)),
            ("spool_mib", u64::from(self.spool_mib)),
        ];
        for (name, value) in lengths {
            if value == 0 {
                wrong(format!("blobs.{name}: must be at least 1"));
            }
        }
        if self.min_free_percent > 100 {
            wrong("blobs.min_free_percent: must be at most 100".into());
        }
        if self.folder().is_some() {
            if self.redirect {
                wrong("blobs.redirect: only a bucket (s3://…) can hand pictures out by itself".into());
            }
        } else if self.url.starts_with("s3://") && Url::parse(&self.url).is_ok_and(|url| url.has_host()) {
            self.check_bucket(wrong);
        } else {
            wrong(format!("blobs.url: {:?} is neither file://FOLDER nor s3://BUCKET/PREFIX", self.url));
        }
    }

    fn check_bucket(&self, wrong: &mut impl FnMut(String)) {
        if self.access_key_id.get().is_some() != self.secret_access_key.get().is_some() {
            wrong("blobs: access_key_id and secret_access_key go together; one of them is not set".into());
        }
        match Url::parse(&self.endpoint) {
            _ if self.endpoint.is_empty() => {}
            Ok(url) if url.scheme() == "https" && url.has_host() => {}
            Ok(url) if url.scheme() == "http" && url.has_host() => {
                if !self.allow_http {
                    wrong("blobs.endpoint: plain http needs blobs.allow_http = true".into());
                }
            }
            _ => wrong(format!("blobs.endpoint: {:?} is not an http address", self.endpoint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::config::Config;

    /// The problems of `[blobs]` with these keys.
    fn problems(keys: &[(&str, &str)]) -> Vec<String> {
        let mut environment: BTreeMap<String, String> =
            keys.iter().map(|(key, value)| (format!("EASEL__BLOBS__{key}"), (*value).to_owned())).collect();
        environment.insert("PIAPI_API_KEY".into(), "secret-key".into());
        Config::load(None, &environment).map(drop).err().map(|problems| problems.0).unwrap_or_default()
    }

    #[test]
    fn a_place_is_a_folder_or_a_bucket_that_can_be_reached() {
        let bucket = ("URL", "s3://pictures/easel");
        for good in [
            &[("URL", "file:///tmp/x")][..],
            &[bucket, ("REDIRECT", "true")],
            &[bucket, ("ENDPOINT", "https://minio:9000")],
            &[bucket, ("ENDPOINT", "http://minio:9000"), ("ALLOW_HTTP", "true")],
            &[bucket, ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")],
        ] {
            assert_eq!(problems(good), Vec::<String>::new(), "{good:?}");
        }
        for (bad, about) in [
            (&[("URL", "/tmp/x")][..], "blobs.url"),
            (&[("URL", "file://")], "blobs.url"),
            (&[("URL", "s3:///prefix")], "blobs.url"),
            (&[("REDIRECT", "true")], "blobs.redirect"),
            (&[("DOWNLOADS", "0")], "blobs.downloads"),
            (&[bucket, ("ENDPOINT", "http://minio:9000")], "blobs.endpoint"),
            (&[bucket, ("ENDPOINT", "minio:9000")], "blobs.endpoint"),
            (&[bucket, ("ACCESS_KEY_ID", "a")], "blobs: access_key_id and secret_access_key"),
        ] {
            let problems = problems(bad);
            assert!(problems.len() == 1 && problems[0].starts_with(about), "{bad:?}: {problems:?}");
        }
    }
}
