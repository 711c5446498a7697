//! The checker itself on trial: a sound little world passes, and each way of breaking it fails the invariant that forbids
//! it, and that one alone.

use crate::checker::judge;
use crate::journal::Note;
use crate::ledger::{Picture, Reception, count, token};
use crate::rows::{AttemptRow, BookRow, EventRow, ImageRow, QuarantineRow, Rows, TaskRow};
use crate::sink::{Delivery, verifies};
use crate::spool::Spooled;
use crate::table::{expected, points};
use crate::world::{Kept, Pictures, World};

const TOKEN: &str = "t-01hzzzzzzzzzzzzzzzzzzzzzzz";
const HASH: &str = "aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11";

/// One task that was bought once, saved and told.
fn sound() -> World {
    let state = r#"{"cost":{"settled":"0.002","unresolved":"0"}}"#;
    let task = TaskRow {
        id: "task_1".into(),
        idempotency_key: Some("key-1".into()),
        phase: "succeeded".into(),
        request: format!(r#"{{"prompt":"{TOKEN} a cat","webhook":{{"url":"http://x"}}}}"#),
        state: state.into(),
        finished_at: Some(20),
        ..TaskRow::default()
    };
    let attempt = AttemptRow {
        id: "att_1".into(),
        task_id: "task_1".into(),
        provider: "piapi_flux".into(),
        state: "succeeded".into(),
        handle: Some("up-1".into()),
        started_at: 10,
        detail: r#"{"billed":"yes","charged":"0.002"}"#.into(),
    };
    let reception = Reception {
        seq: 1,
        at: 11,
        token: Some(TOKEN.into()),
        upstream_id: Some("up-1".into()),
        outcome: "completed".into(),
        nanos: Some(2_000_000),
        files: [("http://f/1".to_owned(), picture(HASH))].into(),
        ..Reception::default()
    };
    let events = ["task.attempt", "task.saving", "task.succeeded"];
    let events =
        (2..).zip(events).map(|(seq, name)| EventRow { task_id: "task_1".into(), seq, name: name.into() });
    let accepted =
        Note::Accepted { id: "task_1".into(), key: "key-1".into(), token: TOKEN.into(), replayed: false };
    let told = Note::Told { id: "task_1".into(), status: "succeeded".into() };
    let foreign = Note::Foreign { id: "task_1".into(), http: 404 };
    World {
        receptions: vec![reception],
        journal: vec![accepted, told, foreign],
        rows: Rows {
            tasks: vec![task],
            attempts: vec![attempt],
            images: vec![ImageRow { task_id: "task_1".into(), sha256: HASH.into() }],
            events: events.collect(),
            books: vec![BookRow { task_id: "task_1".into(), settled: 2_000_000, ..BookRow::default() }],
            ..Rows::default()
        },
        pictures: Pictures { files: [(HASH.to_owned(), HASH.to_owned())].into(), ..Pictures::default() },
        deliveries: Some(vec![delivery("evt_1", "task.succeeded")]),
        searched: 1,
        descriptors: Some((20, 20)),
        ..World::default()
    }
}

fn picture(sha256: &str) -> Picture {
    Picture { sha256: Some(sha256.into()), sent_sha256: None }
}

fn delivery(event: &str, name: &str) -> Delivery {
    Delivery {
        event: event.into(),
        task: "task_1".into(),
        name: name.into(),
        signed: true,
        phase_then: Some("succeeded".into()),
        taken: true,
    }
}

/// The invariants that a broken world violates.
fn broken(spoil: impl FnOnce(&mut World)) -> Vec<&'static str> {
    let mut world = sound();
    spoil(&mut world);
    judge(&world).into_iter().filter(|one| !one.violations.is_empty()).map(|one| one.id).collect()
}

fn note(id: &str, key: &str) -> Note {
    Note::Accepted { id: id.into(), key: key.into(), token: format!("{TOKEN}-{key}"), replayed: false }
}

#[test]
fn a_sound_world_passes_and_everything_in_it_is_looked_at() {
    let findings = judge(&sound());
    assert!(findings.iter().all(|one| one.violations.is_empty()), "{findings:#?}");
    assert!(findings.iter().all(|one| one.checked > 0), "{findings:#?}");
}

#[test]
fn a_promise_without_a_row_is_seen() {
    assert_eq!(broken(|world| world.journal.push(note("task_2", "key-2"))), ["V1"]);
}

#[test]
fn two_tasks_under_one_key_are_seen() {
    let second = |world: &mut World| {
        world.rows.tasks.push(TaskRow {
            id: "task_2".into(),
            phase: "canceled".into(),
            idempotency_key: Some("key-1".into()),
            request: "{}".into(),
            state: "{}".into(),
            finished_at: Some(1),
            ..TaskRow::default()
        });
        world.rows.events.push(EventRow { task_id: "task_2".into(), seq: 2, name: "task.canceled".into() });
    };
    assert_eq!(broken(second), ["V2"]);
    let replay =
        Note::Accepted { id: "task_1".into(), key: "other".into(), token: TOKEN.into(), replayed: true };
    assert_eq!(broken(|world| world.journal.push(replay)), [""; 0], "one request under two keys, one task");
}

#[test]
fn a_second_purchase_is_seen_unless_the_caller_allowed_it() {
    let again = |world: &mut World| {
        let second =
            Reception { seq: 2, at: 12, upstream_id: Some("up-2".into()), ..world.receptions[0].clone() };
        world.receptions.push(second);
        let attempt =
            AttemptRow { id: "att_2".into(), handle: Some("up-2".into()), ..world.rows.attempts[0].clone() };
        world.rows.attempts.push(attempt);
        world.rows.tasks[0].state = r#"{"cost":{"settled":"0.004"}}"#.into();
        world.rows.books[0].settled = 4_000_000;
    };
    assert_eq!(broken(again), ["V3"]);
    assert_eq!(
        broken(|world| {
            again(world);
            let request = &mut world.rows.tasks[0].request;
            *request = request.replace("\"prompt\"", "\"routing\":{\"max_cost_usd\":\"0.004\"},\"prompt\"");
        }),
        [""; 0]
    );
    assert_eq!(
        broken(|world| {
            again(world);
            "rejected".clone_into(&mut world.receptions[1].outcome);
            world.receptions[1].nanos = Some(0);
            world.rows.tasks[0].state = r#"{"cost":{"settled":"0.002"}}"#.into();
            world.rows.books[0].settled = 2_000_000;
            world.rows.attempts[1].detail = r#"{"billed":"no","charged":"0"}"#.into();
        }),
        [""; 0],
        "a refusal is no purchase"
    );
    assert_eq!(
        broken(|world| world.rows.attempts.push(AttemptRow {
            id: "att_2".into(),
            detail: "{}".into(),
            ..world.rows.attempts[0].clone()
        })),
        ["V3"]
    );
}

#[test]
fn a_call_without_an_intent_is_seen() {
    assert_eq!(broken(|world| world.rows.attempts[0].started_at = 1_000), ["V4"]);
    assert!(broken(|world| world.rows.attempts.clear()).contains(&"V4"));
    assert_eq!(broken(|world| world.receptions[0].correlation = Some("att_9".into())), ["V4"]);
    let foreign = |world: &mut World| {
        world.receptions.push(Reception { seq: 2, token: Some("t-x".into()), ..Reception::default() });
    };
    assert_eq!(broken(foreign), ["V4"]);
}

#[test]
fn a_broken_history_is_seen() {
    assert_eq!(broken(|world| world.rows.events[1].seq = 9), ["V5"]);
    assert_eq!(broken(|world| world.rows.events.truncate(2)), ["V5"]);
    assert_eq!(broken(|world| world.rows.events[0].name = "task.saving".into()), ["V5"]);
    assert_eq!(
        broken(|world| {
            let again = EventRow { seq: 5, ..world.rows.events[2].clone() };
            world.rows.events.push(again);
        }),
        ["V5"]
    );
    let late = |world: &mut World| {
        world.rows.events.push(EventRow {
            task_id: "task_1".into(),
            seq: 5,
            name: "task.late_result".into(),
        });
    };
    assert_eq!(broken(late), [""; 0]);
    assert_eq!(
        broken(|world| world.rows.events.push(EventRow {
            task_id: "task_9".into(),
            seq: 2,
            name: "task.attempt".into()
        })),
        ["V5"]
    );
}

#[test]
fn a_task_left_over_or_changed_after_its_end_is_seen() {
    assert!(broken(|world| world.rows.tasks[0].phase = "waiting".into()).contains(&"V5"));
    assert_eq!(broken(|world| world.rows.tasks[0].wake_at = Some(5)), ["V5"]);
    let told = |status: &str| Note::Told { id: "task_1".into(), status: status.into() };
    assert_eq!(broken(|world| world.journal.insert(0, told("failed"))), ["V5"]);
    assert_eq!(broken(|world| world.journal.insert(0, told("in_progress"))), [""; 0]);
}

#[test]
fn a_lost_picture_is_seen() {
    let gone = |world: &mut World| {
        world.rows.images.clear();
        world.pictures.files.clear();
    };
    assert_eq!(broken(gone), ["V6"]);
    assert_eq!(
        broken(|world| *world.receptions[0].files.get_mut("http://f/1").unwrap() = picture("other")),
        ["V6"]
    );
    assert_eq!(
        broken(|world| *world.receptions[0].files.get_mut("http://f/1").unwrap() = Picture::default()),
        ["V6"]
    );
    let late = |world: &mut World| {
        // It came after the end: the row is there, the task has failed all the same.
        world.rows.tasks[0].phase = "failed".into();
        world.rows.events[2].name = "task.failed".into();
        world.journal.remove(1);
        world.deliveries = Some(vec![delivery("evt_1", "task.failed")]);
        world.deliveries.as_mut().unwrap()[0].phase_then = Some("failed".into());
    };
    assert_eq!(broken(late), [""; 0]);
}

#[test]
fn a_picture_is_looked_for_as_it_was_sent() {
    let sent = |world: &mut World, sha256: &str| {
        world.receptions[0].files.get_mut("http://f/1").unwrap().sent_sha256 = Some(sha256.into());
    };
    assert_eq!(broken(|world| sent(world, "with what stands behind it")), ["V6"]);
    assert_eq!(broken(|world| sent(world, HASH)), [""; 0]);
    let wrapped = |world: &mut World| {
        // What is stored is what was sent, not what was drawn.
        sent(world, HASH);
        world.receptions[0].files.get_mut("http://f/1").unwrap().sha256 = Some("drawn".into());
    };
    assert_eq!(broken(wrapped), [""; 0]);
}

/// An attempt whose answer came and gave no picture.
fn in_vain(world: &mut World, billed: &str, status: u16) {
    let detail = format!(
        r#"{{"billed":"{billed}","charged":"0.002","failure":{{"provider":{{"http_status":{status}}}}}}}"#
    );
    let attempt = AttemptRow { state: "no_image".into(), detail, ..world.rows.attempts[0].clone() };
    world.rows.attempts[0] = attempt;
}

fn quarantined(world: &mut World, id: &str, sha256: &str) {
    let item = QuarantineRow {
        id: id.into(),
        attempt_id: "att_1".into(),
        state: "open".into(),
        sha256: sha256.into(),
        bytes: 7,
    };
    world.rows.quarantined.push(item);
    object(world, id, sha256);
}

fn object(world: &mut World, id: &str, sha256: &str) {
    world.pictures.quarantined.insert(id.into(), Kept { sha256: sha256.into(), bytes: 7 });
}

#[test]
fn an_answer_in_vain_that_is_not_kept_is_seen() {
    assert_eq!(broken(|world| in_vain(world, "yes", 200)), ["V6"]);
    assert_eq!(broken(|world| in_vain(world, "no", 200)), [""; 0], "it cost nothing");
    assert_eq!(broken(|world| in_vain(world, "yes", 502)), [""; 0], "it is no answer of the provider's");
    let kept = |world: &mut World| {
        in_vain(world, "yes", 200);
        quarantined(world, "qua_1", "a");
    };
    assert_eq!(broken(kept), [""; 0]);
}

#[test]
fn quarantine_without_bytes_and_bytes_without_a_row_are_seen() {
    assert_eq!(broken(|world| quarantined(world, "qua_1", "a")), [""; 0]);
    assert_eq!(broken(|world| object(world, "qua_1", "a")), ["V9"]);
    let copied = |world: &mut World| {
        quarantined(world, "qua_1", "a");
        object(world, "qua_2", "a");
    };
    assert_eq!(broken(copied), [""; 0], "a kill kept the first from being booked");
    assert_eq!(
        broken(|world| {
            quarantined(world, "qua_1", "a");
            world.pictures.quarantined.clear();
        }),
        ["V9"]
    );
    assert_eq!(
        broken(|world| {
            quarantined(world, "qua_1", "a");
            object(world, "qua_1", "other");
        }),
        ["V9"]
    );
    assert_eq!(
        broken(|world| {
            quarantined(world, "qua_1", "a");
            world.rows.quarantined[0].bytes = 8;
        }),
        ["V9"]
    );
}

#[test]
fn what_is_left_in_the_spool_is_seen() {
    let file = |live: bool, attempt: Option<&str>| {
        let attempt = attempt.map(str::to_owned);
        broken(move |world| world.spool.push(Spooled { path: "token/file".into(), live, attempt }))
    };
    assert_eq!(file(false, None), ["V9"], "of a process that is gone");
    assert_eq!(file(false, Some("att_1")), ["V9"]);
    assert_eq!(file(true, None), ["V9"], "a body that nobody is receiving");
    assert_eq!(file(true, Some("att_1")), ["V9"], "an answer that was acted on");
    assert_eq!(file(true, Some("att_9")), ["V9"]);
    let open = broken(|world| {
        world.rows.attempts[0].state = "accepted".into();
        let attempt = Some("att_1".to_owned());
        world.spool.push(Spooled { path: "token/file".into(), live: true, attempt });
    });
    assert_eq!(open, ["V8"], "the attempt is open, which is wrong by itself");
}

/// The folders of processes that live and of those that are gone.
#[test]
fn the_spool_is_read_as_it_lies_there() {
    let spool = tempfile::tempdir().unwrap();
    assert_eq!(crate::spool::look(&spool.path().join("none")).unwrap(), []);
    let folder = |name: &str| {
        let folder = spool.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        (std::fs::File::create(folder.join("lock")).unwrap(), folder)
    };
    let (living, folder_of_living) = folder("living");
    living.lock().unwrap();
    std::fs::write(folder_of_living.join("att_1.answer"), "x").unwrap();
    let (_, folder_of_gone) = folder("gone");
    std::fs::write(folder_of_gone.join("body"), "x").unwrap();
    let mut found = crate::spool::look(spool.path()).unwrap();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let file = |path: &str, live: bool, attempt: Option<&str>| Spooled {
        path: path.into(),
        live,
        attempt: attempt.map(str::to_owned),
    };
    let all = [
        file("gone", false, None),
        file("gone/body", false, None),
        file("living/att_1.answer", true, Some("att_1")),
    ];
    assert_eq!(found, all);
}

#[test]
fn an_announcement_that_is_missing_forged_early_or_out_of_order_is_seen() {
    assert_eq!(broken(|world| world.deliveries = Some(Vec::new())), ["V7"]);
    assert_eq!(broken(|world| world.deliveries.as_mut().unwrap()[0].signed = false), ["V7"]);
    assert_eq!(
        broken(|world| world.deliveries.as_mut().unwrap()[0].phase_then = Some("storing".into())),
        ["V7"]
    );
    assert_eq!(
        broken(|world| world.deliveries.as_mut().unwrap().insert(0, delivery("evt_2", "task.late_result"))),
        ["V7"]
    );
    assert_eq!(
        broken(|world| world.deliveries.as_mut().unwrap().push(delivery("evt_1", "task.failed"))),
        ["V7"]
    );
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let (id, time, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
    // The example of the Standard Webhooks specification.
    let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert!(verifies(secret, id, time, signature, body));
    assert!(verifies(secret, id, time, &format!("v1,AAAA {signature}"), body));
    assert!(!verifies(secret, id, "1614265331", signature, body));
}

#[test]
fn books_that_disagree_are_seen() {
    assert_eq!(broken(|world| world.receptions[0].nanos = Some(1)), ["V8"]);
    assert_eq!(
        broken(|world| world.rows.attempts[0].detail = r#"{"billed":"yes","charged":"0.001"}"#.into()),
        ["V8"]
    );
    assert_eq!(broken(|world| world.rows.attempts[0].state = "accepted".into()), ["V8"]);
    let unknown = |world: &mut World| {
        world.rows.tasks[0].state = r#"{"cost":{"settled":"0","unresolved":"0.002"}}"#.into();
        world.rows.attempts[0].detail = r#"{"billed":"unknown","charged":null}"#.into();
        (world.rows.books[0].settled, world.rows.books[0].unresolved) = (0, 2_000_000);
    };
    assert_eq!(broken(unknown), [""; 0]);
    assert_eq!(broken(|world| world.rows.books.clear()), ["V8"]);
    assert_eq!(broken(|world| world.rows.books[0].unresolved = 1), ["V8"]);
    assert_eq!(broken(|world| world.rows.books[0].reserved = 1), ["V8"]);
}

#[test]
fn loose_files_leaks_and_pryings_are_seen() {
    assert_eq!(broken(|world| world.pictures.files.clear()), ["V9"]);
    assert_eq!(broken(|world| drop(world.pictures.files.insert(HASH.into(), "other".into()))), ["V9"]);
    assert_eq!(broken(|world| drop(world.pictures.files.insert("b".into(), "b".into()))), ["V9"]);
    let orphan = |state: &'static str| {
        broken(move |world| {
            world.pictures.files.insert("b".into(), "b".into());
            world.receptions[0].files.insert("inline:0".into(), picture("b"));
            world.receptions[0].upstream_id = Some("another".into());
            world.rows.attempts[0].state = state.into();
        })
    };
    assert_eq!(orphan("lost"), [""; 0], "bytes whose row a kill prevented");
    assert_eq!(orphan("failed"), ["V9"]);
    assert_eq!(broken(|world| world.pictures.temporary.push("incoming/x".into())), ["V9"]);
    assert_eq!(broken(|world| world.rows.unsound.push("row 1 missing".into())), ["V9"]);
    assert_eq!(broken(|world| world.leaks.push("a row".into())), ["V10"]);
    assert_eq!(broken(|world| world.journal.push(Note::Leak { what: "a body".into() })), ["V10"]);
    assert_eq!(broken(|world| world.descriptors = Some((20, 33))), ["V10"]);
    assert_eq!(broken(|world| world.journal.push(Note::Foreign { id: "task_1".into(), http: 200 })), ["P8"]);
    assert_eq!(broken(|world| world.journal.push(Note::Odd { what: "500".into() })), ["S1"]);
}

#[test]
fn tokens_ledger_lines_and_traces_are_read() {
    assert_eq!(token(&format!("Image size: 1:1. {TOKEN} [[sim: x]]")).as_deref(), Some(TOKEN));
    assert_eq!(token("a cat in a t-shirt"), None);
    assert_eq!(
        count(b"{\"kind\":\"received\",\"seq\":1}\n{\"kind\":\"billed\"}\n{\"kind\":\"received\"}"),
        2
    );
    let trace = "1 read(9, \"POST /generate HTTP/1.1\"...)\n2 fdatasync(8</x/easel.db-wal>) = 0\n1 writev(9, [{\"HTTP/1.1 202 Accepted\"";
    assert_eq!(crate::trace::read(trace), Some(true));
    assert_eq!(crate::trace::read(&trace.replace("-wal", "-shm")), Some(false));
    assert_eq!(crate::trace::read(&trace.replace("202", "500")), None);
}

/// The untidy words are the simulator's own, and there are many for every provider.
#[test]
fn every_wrapping_is_one_that_the_simulator_knows() {
    for provider in crate::fleet::PROVIDERS {
        let all = crate::untidy::fitting(provider);
        assert!(all.len() > 70, "{provider}: {}", all.len());
        assert_eq!(all.iter().any(|one| one.streams), provider == "gpt_image");
        for wrapping in all {
            let order = crate::order::Order::wrapped(provider, 0.1, &wrapping);
            let prompt = order.body["prompt"].as_str().unwrap();
            assert_eq!(token(prompt), Some(order.token.clone()), "{prompt}");
            assert!(order.untidy && !prompt.contains("{}"), "{prompt}");
        }
    }
}

#[test]
fn an_untidy_share_is_kept() {
    fastrand::seed(1);
    for share in [0, 40, 85] {
        let untidy = (0..4_000).filter(|_| crate::order::Order::any(share).untidy).count();
        assert!(untidy.abs_diff(usize::from(share) * 40) < 120, "{share}: {untidy}");
    }
}

#[test]
fn the_table_knows_every_point_of_the_sources() {
    let points = points().unwrap();
    assert!(points.len() >= 12, "{points:?}");
    for point in points {
        for provider in crate::fleet::PROVIDERS {
            assert!(expected(&point, provider).is_some(), "{point} is not in the table");
        }
    }
}

/// A POST over HTTP/2 is read to its end, counted and refused, as often as it comes.
#[tokio::test]
async fn every_post_over_http2_is_counted_and_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let proxy = crate::proxy::Proxy::start("http://127.0.0.1:9", crate::proxy::Spoil::Refuse).await.unwrap();
    let address = proxy.url().trim_start_matches("http://").to_owned();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    for stream in [1, 3] {
        // HEADERS that say nothing but their end, then two pieces of the body, the second the last.
        client.write_all(&[0, 0, 1, 1, 4, 0, 0, 0, stream, 0x82]).await.unwrap();
        client.write_all(&[0, 0, 1, 0, 0, 0, 0, 0, stream, b'a']).await.unwrap();
        client.write_all(&[0, 0, 1, 0, 1, 0, 0, 0, stream, b'b']).await.unwrap();
        let refused = loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[2])];
            client.read_exact(&mut payload).await.unwrap();
            if head[3] == 3 {
                break (head[8], payload);
            }
        };
        assert_eq!(refused, (stream, vec![0, 0, 0, 7]));
    }
    assert_eq!(proxy.received().len(), 2);
    assert!(proxy.received().iter().all(|one| one.http2));
}

#[test]
fn the_command_line_holds_together() {
    <crate::Cli as clap::CommandFactory>::command().debug_assert();
}
