//! Callers on raw sockets that send what no client library would: each gets one clear answer or a closed connection, nothing
//! is stored for it, and everybody else is served meanwhile.

use std::time::{Duration, Instant};

use easel::server::Limits;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Db, KEY, PATIENCE};
use crate::line::{Line, rest, statuses};

/// Short enough to wait for, and longer than any request here takes.
fn tight() -> Limits {
    Limits { header: Duration::from_secs(5), ..Limits::default() }
}

fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /generate HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n{headers}\r\n{body}"
    )
}

/// T1: half a header on thousands of connections, and one that dribbles.
#[tokio::test]
async fn slow_headers_are_cut_and_delay_nobody() {
    let limits = tight();
    let line = Line::start(Db::Sqlite, limits, "").await;
    let undelayed = |quiet: Duration, loud: Duration| loud < Duration::from_millis(100).max(quiet * 3);
    let mut rounds = Vec::new();
    // A machine that is busy with other things is slow at times, with and without: it has three tries.
    for _ in 0..3 {
        let quiet = line.slowest_of_most().await;
        let mut half = Vec::new();
        for _ in 0..5_000 {
            let mut stream = TcpStream::connect(line.address).await.unwrap();
            stream.write_all(b"GET /healthz HTT").await.unwrap();
            half.push(stream);
        }
        let loud = line.slowest_of_most().await;
        for stream in &mut half {
            assert_eq!(rest(stream).await, "");
        }
        assert!(loud < limits.header / 2, "it waits for headers: 99 of 100 in {loud:?}");
        rounds.push((quiet, loud));
        if undelayed(quiet, loud) {
            break;
        }
    }
    let (quiet, loud) = *rounds.last().unwrap();
    assert!(undelayed(quiet, loud), "99 of 100, without and with: {rounds:?}");
    let began = Instant::now();
    let mut dribbling = TcpStream::connect(line.address).await.unwrap();
    let mut byte = [0];
    while began.elapsed() < PATIENCE {
        if dribbling.write_all(b"G").await.is_err() {
            break;
        }
        let answer = tokio::time::timeout(Duration::from_millis(100), dribbling.read(&mut byte)).await;
        if matches!(answer, Ok(Ok(0) | Err(_))) {
            break;
        }
    }
    assert!(began.elapsed() >= limits.header && began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    line.stop().await;
}

/// T1: nor does a stop wait for what will never come.
#[tokio::test]
async fn a_stop_does_not_wait_for_headers() {
    let line =
        Line::start(Db::Sqlite, Limits { header: PATIENCE * 2, idle: PATIENCE * 2, ..Limits::default() }, "")
            .await;
    let mut half = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(line.address).await.unwrap();
        stream.write_all(b"GET /healthz HTT").await.unwrap();
        half.push(stream);
    }
    line.well().await;
    let began = Instant::now();
    line.stop().await;
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

/// Between two requests a connection stays open for longer than a header may take.
#[tokio::test]
async fn a_kept_connection_may_rest_for_longer_than_a_header_may_take() {
    let (header, idle) = (Duration::from_millis(400), Duration::from_secs(6));
    let limits = Limits { header, idle, ..Limits::default() };
    let line = Line::start(Db::Sqlite, limits, "").await;
    let mut stream = TcpStream::connect(line.address).await.unwrap();
    let mut piece = [0; 4096];
    for _ in 0..2 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let count = stream.read(&mut piece).await.unwrap();
        assert_eq!(statuses(&String::from_utf8_lossy(&piece[..count])), [200]);
        let silent = tokio::time::timeout(limits.header * 2, stream.read(&mut piece)).await;
        assert!(silent.is_err(), "closed before its time");
    }
    // The next header has begun: now it must come to its end.
    let began = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    assert!(began.elapsed() >= limits.header && began.elapsed() < limits.idle, "{:?}", began.elapsed());
    // And one that says nothing more is closed by and by.
    let began = Instant::now();
    let mut stream = TcpStream::connect(line.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(statuses(&rest(&mut stream).await), [200]);
    assert!(began.elapsed() >= limits.idle);
    line.stop().await;
}

/// T2, T13, and a body that breaks off.
#[rstest]
#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_so_long(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let line = Line::start(db, tight(), "[server]\nbody_s = 1\n").await;
    let dribbled = post("Content-Length: 100\r\n", "{\"prompt\":");
    let expecting = post("Content-Length: 100\r\nExpect: 100-continue\r\n", "");
    for (what, bytes) in [("dribbled", dribbled), ("expecting", expecting)] {
        let began = Instant::now();
        let answer = line.talk(bytes).await;
        assert!(began.elapsed() >= Duration::from_secs(1), "{what}");
        assert_eq!(statuses(&answer).last(), Some(&408), "{what}: {answer}");
        assert!(answer.contains("request_timeout"), "{answer}");
    }
    let mut stream = TcpStream::connect(line.address).await.unwrap();
    stream.write_all(post("Content-Length: 100\r\n", "{\"prompt\":\"x\"}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(statuses(&answer).iter().all(|status| *status == 400), "{answer}");
    assert_eq!(line.stored().await, 0);
    line.stop().await;
}

/// T3 to T8, T10, T14: heads that are read differently by different programs, or are meant for another one.
#[tokio::test]
async fn strange_heads_get_one_answer_and_a_closed_connection() {
    let line = Line::start(Db::Sqlite, tight(), "[server]\nbody_s = 1\n").await;
    let get = |headers: &str| format!("GET /tasks HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n{headers}\r\n");
    let many = (0..1_000).map(|n| format!("X-{n}: a\r\n")).collect::<Vec<_>>().concat();
    let one = format!("X-A: {}\r\n", "a".repeat(1024 * 1024));
    let wide = (0..40).map(|n| format!("X-{n}: {}\r\n", "a".repeat(900))).collect::<Vec<_>>().concat();
    let path = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes));
    // Empty SETTINGS, and 10,000 streams that begin (`:method GET` of the static table) and are reset at once. All bytes are
    // below 128, so that they are a text.
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        String::from_utf8(frame).unwrap()
    };
    let streams = (0..40_000_u32).map(|n| 2 * n + 1).filter(|n| n.to_be_bytes().iter().all(u8::is_ascii));
    let reset = |stream| frame(1, 4 | 1, stream, b"\x02") + &frame(3, 0, stream, &[0, 0, 0, 8]);
    let frames = frame(4, 0, 0, b"") + &streams.take(10_000).map(reset).collect::<String>();
    let cases = [
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}x"), &[400][..]),
        ("a signed length", post("Content-Length: +4\r\n", "{}  "), &[400]),
        ("two hosts", get("Host: a\r\nHost: b\r\n"), &[400]),
        ("two equal hosts", get("Host: a\r\nHost: a\r\n"), &[400]),
        ("no host", get(""), &[400]),
        ("an empty host", get("Host:\r\n"), &[400]),
        ("a host with a name in front", get("Host: u@a\r\n"), &[400]),
        ("an unknown coding", post("Transfer-Encoding: xchunked\r\n", "2\r\n{}\r\n0\r\n\r\n"), &[400]),
        (
            "chunked not last",
            post("Transfer-Encoding: chunked, identity\r\n", "2\r\n{}\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a chunk beyond all numbers",
            post("Transfer-Encoding: chunked\r\n", "FFFFFFFFFFFFFFFF1\r\n{}"),
            &[400],
        ),
        ("a negative chunk", post("Transfer-Encoding: chunked\r\n", "-2\r\n{}\r\n0\r\n\r\n"), &[400]),
        (
            "an endless chunk extension",
            post(
                "Transfer-Encoding: chunked\r\n",
                &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(10_000_000)),
            ),
            &[400],
        ),
        ("a NUL", get("Host: a\r\nX-A: a\0b\r\n"), &[400]),
        ("a folded header", get("Host: a\r\nX-A: a\r\n b\r\n"), &[400]),
        ("a space before the colon", get("Host: a\r\nX-A : b\r\n"), &[400]),
        ("a thousand headers", get(&format!("Host: a\r\n{many}")), &[431]),
        ("one large header", get(&format!("Host: a\r\n{one}")), &[431]),
        ("headers of 36 KB", get(&format!("Host: a\r\n{wide}")), &[431]),
        ("a path of 9 KB", path(9_000), &[414]),
        ("a path of 64 KB", path(65_536), &[414, 431]),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[400]),
        ("streams of HTTP/2, reset at once", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{frames}"), &[400]),
        (
            "a proxy's CONNECT",
            "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n".to_owned(),
            &[405],
        ),
        ("TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), &[405]),
        (
            "another host in the line",
            "GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
            &[400],
        ),
    ];
    for (what, bytes, expected) in cases {
        let answer = line.talk(&bytes).await;
        let found = statuses(&answer);
        // A connection reset with bytes unread may lose the words; it never gives others.
        let lost = found.is_empty()
            && (matches!(what, "one large header" | "an endless chunk extension") || what.contains("HTTP/2"));
        assert!(lost || (found.len() == 1 && expected.contains(&found[0])), "{what}: {answer}");
        assert!(!answer.contains("\0\0\0"), "{what}: no frames of HTTP/2");
    }
    assert_eq!(line.stored().await, 0);
    line.well().await;
    line.stop().await;
}

/// T3: what hides behind a doubtful length is not a request.
#[tokio::test]
async fn nothing_is_smuggled() {
    let line = Line::start(Db::Sqlite, tight(), "").await;
    let hidden = "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = line.talk(post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", hidden)).await;
    assert!(!answer.contains("\"version\""), "the hidden request was answered: {answer}");
    assert!(statuses(&answer).iter().all(|status| *status == 400), "{answer}");
    // A tab is white space like a space, and a bare LF ends a line: neither divides a request otherwise.
    let tabbed = post("Connection: close\r\nTransfer-Encoding:\tchunked\r\n", "2\r\n{}\r\n0\r\n\r\n");
    assert_eq!(statuses(&line.talk(tabbed).await), [422]);
    let bare = "GET /healthz HTTP/1.1\nHost: a\nConnection: close\n\n";
    assert_eq!(statuses(&line.talk(bare).await), [200]);
    // T14: an upgrade nobody takes up.
    let upgrade = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert_eq!(statuses(&line.talk(upgrade).await), [200], "answered in HTTP/1.1, not switched");
    // HTTP/1.0 knows no Host.
    assert_eq!(
        statuses(&line.talk("GET /healthz HTTP/1.0\r\n\r\n").await.replace("HTTP/1.0", "HTTP/1.1")),
        [200]
    );
    line.stop().await;
}

/// T9 and T12: answers that nobody reads.
#[tokio::test]
async fn who_does_not_read_is_cut_and_holds_up_nobody() {
    let limits = Limits { write_stall: Duration::from_millis(500), ..tight() };
    let line = Line::start(Db::Sqlite, limits, "").await;
    let mut deaf = TcpStream::connect(line.address).await.unwrap();
    let began = Instant::now();
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let asking = async {
        // The gateway stops reading long before this ends, and then closes.
        for _ in 0..100_000 {
            if deaf.write_all(&request).await.is_err() {
                return;
            }
        }
        panic!("ten million requests were taken");
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it is cut");
    assert!(began.elapsed() >= limits.write_stall);
    // One that follows a task and never reads holds up neither the task nor others.
    let task = line.gateway.generate(r#"{"prompt":"a cat","size":"64x64"}"#).await;
    let id = task["id"].as_str().unwrap();
    let mut follower = TcpStream::connect(line.address).await.unwrap();
    let follow = format!("GET /tasks/{id}/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    follower.write_all(follow.as_bytes()).await.unwrap();
    assert_eq!(line.gateway.settle(id).await["status"], "succeeded");
    line.well().await;
    line.stop().await;
}

/// T12: a picture that is read byte by byte.
#[tokio::test]
async fn who_reads_too_slowly_is_cut() {
    const SIZE: usize = 16 << 20;
    let limits = Limits { write_stall: Duration::from_millis(500), ..tight() };
    let line = Line::start(Db::Sqlite, limits, "").await;
    let prompt = format!("a cat [[sim: file_bytes={SIZE}]]");
    let task = line.gateway.generate(&json!({"prompt": prompt, "size": "64x64"}).to_string()).await;
    let id = task["id"].as_str().unwrap();
    assert_eq!(line.gateway.settle(id).await["status"], "succeeded");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little is under way for it: what it has not read waits with us.
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut slow = socket.connect(line.address).await.unwrap();
    let ask = format!("GET /tasks/{id}/images/0 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    slow.write_all(ask.as_bytes()).await.unwrap();
    let (began, mut byte) = (Instant::now(), [0]);
    let mut pace = tokio::time::interval(limits.write_stall / 20);
    while began.elapsed() < limits.write_stall * 4 {
        pace.tick().await;
        slow.read_exact(&mut byte).await.unwrap();
    }
    line.well().await;
    let left = rest(&mut slow).await.len();
    assert!(left < SIZE / 2, "{left} bytes were still on their way: nobody had given up");
    line.stop().await;
}

/// T11: the caller is gone the moment it has sent.
#[rstest]
#[tokio::test]
async fn a_caller_that_resets_after_sending_has_one_task_or_none(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let line = Line::start(db, tight(), "").await;
    let body = r#"{"prompt":"a cat","size":"64x64"}"#;
    let headers = format!("Content-Length: {}\r\nIdempotency-Key: once\r\n", body.len());
    for _ in 0..20 {
        let stream = std::net::TcpStream::connect(line.address).unwrap();
        let mut stream = TcpStream::from_std({
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .unwrap();
        stream.write_all(post(&headers, body).as_bytes()).await.unwrap();
        // Closing with an answer unread is a reset.
        stream.readable().await.unwrap();
        drop(stream);
    }
    let key = [("idempotency-key", "once")];
    let again = line.gateway.send(reqwest::Method::POST, "/generate", &key, Some(body)).await;
    assert_eq!(again.status, 202);
    assert_eq!(line.stored().await, 1);
    line.gateway.settle(again.json()["id"].as_str().unwrap()).await;
    assert_eq!(line.gateway.receptions(), 1);
    line.stop().await;
}

/// T15: who a request says it comes from or goes to makes no difference.
#[tokio::test]
async fn links_are_not_made_from_what_a_caller_says() {
    let line = Line::start(Db::Sqlite, tight(), "").await;
    let body = r#"{"prompt":"a cat","size":"64x64"}"#;
    let forged = format!(
        "POST /generate HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: gopher\r\n\
         X-Forwarded-For: 127.0.0.1\r\nForwarded: host=evil.example\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = line.talk(forged).await;
    assert_eq!(statuses(&answer), [202]);
    assert!(!answer.contains("evil") && !answer.contains("gopher"), "{answer}");
    line.stop().await;
    let line = Line::start(Db::Sqlite, tight(), "[server]\nhosts = [\"gw.example\"]\n").await;
    let ask =
        |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for (host, path, status) in [
        ("gw.example", "/openapi.json", 200),
        ("GW.example:8080", "/openapi.json", 200),
        ("evil.example", "/openapi.json", 400),
        ("10.0.0.1", "/healthz", 200),
    ] {
        assert_eq!(statuses(&line.talk(ask(host, path)).await), [status], "{host}{path}");
    }
    line.stop().await;
}

/// As many connections as may be, and one more.
#[tokio::test]
async fn beyond_the_limit_connections_are_told_so_at_once() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let line = Line::start(Db::Sqlite, limits, "").await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(line.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut piece = [0; 1024];
        assert!(stream.read(&mut piece).await.unwrap() > 0);
        kept.push(stream);
    }
    let began = Instant::now();
    let answer = line.talk("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(statuses(&answer), [503]);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("retry-after:"), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&problem["code"], &problem["retryable"]), (&json!("overloaded"), &json!(true)));
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(kept);
    // Room again, as soon as the gateway has noticed.
    let again = async {
        while statuses(&line.talk("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await)
            != [200]
        {}
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    line.stop().await;
}
