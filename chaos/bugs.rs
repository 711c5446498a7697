//! stub
pub async fn run(_: &std::path::Path, _: &str) -> anyhow::Result<(String, bool)> { Ok((String::new(), true)) }
