//! Imports point down, never up and never sideways on floor 2. Reads the sources and names the offending line.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms by floor; the simulator stands beside the house.
const FLOORS: [(u8, &[&str]); 6] = [
    (0, &["domain", "chaos"]),
    (1, &["net", "spool", "trace"]),
    (2, &["providers", "store", "blobs"]),
    (3, &["engine"]),
    (4, &["api", "console"]),
    (5, &["main", "app", "cli", "config", "telemetry", "server", "demo", "keys", "recover", "reload"]),
];

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, rooms)| rooms.contains(&room)).map(|(floor, _)| *floor)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(String, String, String)> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&base, &mut found);
    assert!(found.len() > 50, "the sources were not found");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&base).unwrap().display().to_string();
        let room = name.split(['/', '.']).next().unwrap().to_owned();
        (name, room, fs::read_to_string(&path).unwrap())
    };
    found.into_iter().map(read).collect()
}

/// Rooms a line imports: `crate::room` and the first names of `crate::{room, …}`.
fn imports(line: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let names = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap());
        let several = rest.starts_with('{');
        for name in names.split(',').take(if several { usize::MAX } else { 1 }) {
            let name = name.trim();
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            rooms.push(&name[..end]);
        }
    }
    rooms
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (name, room, text) in all_sources() {
        for (number, line) in text.lines().enumerate() {
            for imported in imports(line) {
                let allowed = match (room.as_str(), imported) {
                    (room, imported) if room == imported => true,
                    // It borrows the clock, and spells everything else itself.
                    ("simulator", imported) => imported == "domain" && line.contains("domain::clock"),
                    ("demo", "simulator") => true,
                    (_, "simulator") => false,
                    (room, imported) => match (floor(room), floor(imported)) {
                        // Macros and the crate's own root have no floor.
                        (Some(5), _) | (_, None) => true,
                        (Some(own), Some(other)) => other < own,
                        (None, _) => room == "lib",
                    },
                };
                if !allowed {
                    wrong.push(format!(
                        "src/{name}:{}: {room} imports {imported}: {}",
                        number + 1,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_ground_floor_knows_no_sockets_rows_or_runtime() {
    let banned = ["tokio::", "sqlx::", "reqwest::", "axum::", "hyper::"];
    let mut wrong = Vec::new();
    for (name, room, text) in all_sources().into_iter().filter(|(_, room, _)| room == "domain") {
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            if banned.iter().any(|word| line.contains(word)) {
                wrong.push(format!("src/{name}:{}: {room}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_below_the_wall_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for (name, _, text) in all_sources() {
        let lines = text.lines().count();
        if lines > 400 {
            wrong.push(format!("src/{name}: {lines} lines"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("src/{name}: does not begin by saying what it is for"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_reading_of_imports_works() {
    assert_eq!(imports("use crate::engine::Engine;"), ["engine"]);
    assert_eq!(imports("use crate::{api, server};"), ["api", "server"]);
    assert_eq!(imports("let x: crate::store::Store = crate::net::open();"), ["store", "net"]);
}
