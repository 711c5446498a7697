//! Accepts connections and serves HTTP/1.1 on them, each in a tracked task that ends with the simulator.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::connection::{Socket, Switch};

/// How long a connection may take over the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How long to wait when the machine has no descriptor left for another connection.
const BREATH: Duration = Duration::from_millis(50);

/// Serves until `stop` is cancelled; open connections are then dropped.
pub async fn serve(listener: TcpListener, router: Router, tracker: TaskTracker, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                tracker.spawn(async move { converse(stream, router, stop).await });
            }
            Err(error) => {
                tracing::warn!(%error, "the simulator could not accept a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router, stop: CancellationToken) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let switch = Switch::new();
    let socket = Socket::new(stream, switch.clone());
    let on_request = switch.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(on_request.clone());
        let router = router.clone();
        async move { router.oneshot(request).await.map_err(|never: Infallible| match never {}) }
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        // First in line, so that what was said before a kill is flushed.
        biased;
        // A caller that hangs up or an answer cut on purpose: nothing to report.
        _ = conversation => {}
        () = switch.killed() => {}
        () = stop.cancelled() => {}
    }
}
