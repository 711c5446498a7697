//! What a gateway under test is configured with.

use tempfile::TempDir;

use crate::harness::{KEY, OTHER_KEY};

/// Configuration that begins so names its own providers.
pub const ONLY: &str = "# only\n";

/// A configuration whose every provider is the simulator.
pub fn configuration(store: &str, upstream: &str, folder: &TempDir, more: &str) -> String {
    let blobs = format!("[blobs]\nurl = \"file://{}\"\n", folder.path().join("blobs").display());
    let blobs = if more.contains("[blobs]") { String::new() } else { blobs };
    let text = format!(
        "[auth]\npepper = \"test-pepper\"\n\
         [[auth.keys]]\nname = \"test\"\nkey = \"{KEY}\"\nrole = \"admin\"\n[[auth.keys]]\nname = \"other\"\ntenant = \"other\"\nkey = \"{OTHER_KEY}\"\n\
         [store]\nurl = \"{store}\"\n{blobs}"
    );
    let own_net = more.contains("[net]");
    let net = "[net]\nallow_private = [\"127.0.0.1/32\"]\nallow_http = true\n";
    let text = if own_net { text } else { text + net };
    let providers = easel::providers::KINDS.iter().map(|kind| {
        let name = kind.name;
        format!(
            "[providers.{name}]\nkind = \"{name}\"\nbase_url = \"{upstream}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\n\
             in_flight = 50\npoll_after_s = 0.05\nmax_answer_mib = 100\n"
        )
    });
    let providers = if more.starts_with(ONLY) { String::new() } else { providers.collect() };
    let folder = folder.path().display().to_string();
    text + &providers + &more.replace("{upstream}", upstream).replace("{folder}", &folder)
}
