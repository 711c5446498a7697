//! TLS to Postgres, as `sslmode` in `store.url` asks for it: who is served over it, in the open, or not at all.

use crate::harness::{Db, Gateway};
use crate::postgres::Server;
use crate::process::{refuses, run, write};
use crate::stage::configuration;
use crate::tls::{Authority, pem};

/// A server with a certificate for `localhost`.
async fn server(authority: &Authority) -> Server {
    let server = Server::start();
    let (certificate, key) = authority.issue("localhost", |_| ());
    server.put("server.crt", &pem("CERTIFICATE", certificate.der())).await;
    server.put("server.key", &pem("PRIVATE KEY", &key.serialize_der())).await;
    server.sql("ALTER SYSTEM SET ssl = on").await;
    server.crash();
    server.again();
    server
}

#[tokio::test]
async fn sslmode_is_kept() {
    const CONNECTIONS: &str = "SELECT DISTINCT ssl::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = (Authority::new(), Authority::new());
    let (foreign, known) =
        (theirs.write(&folder.path().join("theirs")), ours.write(&folder.path().join("ours")));
    let server = server(&ours).await;
    let at = |database: &str, host: &str, mode: &str| {
        let mut url = server.url(database);
        url.set_host(Some(host)).unwrap();
        url.set_query(Some(&format!("sslmode={mode}")));
        url.to_string()
    };
    for (database, host, mode, encrypted) in [
        ("named", "localhost", format!("verify-full&sslrootcert={known}"), "true"),
        ("signed", "127.0.0.1", format!("verify-ca&sslrootcert={known}"), "true"),
        ("encrypted", "127.0.0.1", "require".to_owned(), "true"),
        ("plain", "127.0.0.1", "disable".to_owned(), "false"),
    ] {
        server.sql(format!("CREATE DATABASE {database}")).await;
        // As long as the test's own process.
        let gateway = Gateway::configured(Db::At(at(database, host, &mode).leak()), "").await;
        let task = gateway.run(r#"{"prompt":"a cat","model":"flux-schnell","size":"64x64"}"#).await;
        assert_eq!(task["status"], "succeeded", "{mode}: {task}");
        assert_eq!(gateway.texts(CONNECTIONS).await, [encrypted], "{mode}");
        gateway.stop().await;
    }
    for (host, mode, says) in [
        ("127.0.0.1", format!("verify-full&sslrootcert={known}"), "not valid for name"),
        ("localhost", format!("verify-full&sslrootcert={foreign}"), "invalid peer certificate"),
        ("127.0.0.1", format!("verify-ca&sslrootcert={foreign}"), "invalid peer certificate"),
        ("localhost", "verify-full".to_owned(), "UnknownIssuer"),
    ] {
        let config =
            write(&folder, &configuration(&at("postgres", host, &mode), "http://127.0.0.1:9", &folder, ""));
        let output = run(&["migrate", "--config", &config], folder.path());
        refuses(&output, "cannot open the database postgres://");
        refuses(&output, says);
    }
}
