//! One TLS client configuration for all clients: the system's trust store and, when configured, further roots.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls_platform_verifier::Verifier;

use super::NetError;

/// TLS 1.2 and 1.3 with HTTP/1.1 alone: a peer cannot talk the paid client into another protocol.
pub(super) fn config(extra_roots: Vec<Vec<u8>>) -> Result<ClientConfig, NetError> {
    let failed = |error: rustls::Error| NetError(error.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = extra_roots.into_iter().map(CertificateDer::from);
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(failed)?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
