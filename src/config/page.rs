//! Holds `docs/configuration.md` against the program: every key there is, its default, and whether a reload takes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use toml::Table;

use super::{
    Audit, Auth, Blobs, Config, DEFAULTS, Engine, Log, Metrics, Net, Provider, Retention, Routing, Server,
    StaticKey, Store, Traces, Webhooks,
};
use crate::providers::KINDS;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// What the page says of a key.
struct Row {
    default: &'static str,
    reload: &'static str,
}

/// The page's tables: the heading names the section, the first cell the key.
fn rows() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    let mut section = "";
    let mut keys = false;
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.trim_matches(['`', '[', ']']);
        }
        keys = line.starts_with("| Key |") || (keys && line.starts_with('|'));
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, key, _, default, reload, _, _] = cells[..] else {
            assert!(!keys, "five cells: {line}");
            continue;
        };
        if keys && key.starts_with('`') {
            let name = format!("{section}.{}", key.trim_matches('`'));
            assert!(rows.insert(name, Row { default, reload }).is_none(), "twice: {line}");
        }
    }
    rows
}

/// A reader that only learns which fields a struct has.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("nothing is read"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    assert!(T::deserialize(Names(&mut names)).is_err());
    assert!(!names.is_empty(), "no struct");
    names
}

/// Every section by the name it has on the page, with its keys.
fn sections() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("server", fields::<Server>()),
        ("auth", fields::<Auth>()),
        ("auth.keys", fields::<StaticKey>()),
        ("audit", fields::<Audit>()),
        ("store", fields::<Store>()),
        ("blobs", fields::<Blobs>()),
        ("retention", fields::<Retention>()),
        ("net", fields::<Net>()),
        ("engine", fields::<Engine>()),
        ("webhooks", fields::<Webhooks>()),
        ("routing", fields::<Routing>()),
        ("metrics", fields::<Metrics>()),
        ("log", fields::<Log>()),
        ("traces", fields::<Traces>()),
        ("providers.ID", fields::<Provider>()),
    ]
}

#[test]
fn the_page_names_every_key_and_no_other() {
    let sections = sections();
    let known: BTreeSet<_> = sections.iter().filter_map(|(name, _)| name.split('.').next()).collect();
    // The keys of an alias are a request's.
    let all: BTreeSet<_> = fields::<Config>().iter().copied().filter(|name| *name != "models").collect();
    assert_eq!(known, all, "a section is not looked at");
    let keys =
        sections.iter().flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")));
    // A list of tables, with a section of its own.
    let keys: BTreeSet<_> = keys.filter(|key| key != "auth.keys").collect();
    assert_eq!(rows().into_keys().collect::<BTreeSet<_>>(), keys);
}

#[test]
fn its_defaults_are_the_ones_compiled_in() {
    let defaults: Table = toml::from_str(DEFAULTS).unwrap();
    for (name, row) in rows() {
        let (section, key) = name.rsplit_once('.').unwrap();
        // What has no single default says so in words.
        if !matches!(section, "auth.keys" | "providers.ID") {
            assert_eq!(row.default, format!("`{}`", defaults[section][key]), "{name}");
        }
    }
    for kind in KINDS.iter().filter(|kind| kind.name != "scripted") {
        let row = format!("| `{}` | `{}` | `{}` |", kind.name, kind.base_url, kind.in_flight);
        assert!(PAGE.contains(&row), "{row}");
    }
}

#[test]
fn a_reload_takes_what_it_says() {
    let key = ("PIAPI_API_KEY".to_owned(), "secret-key".to_owned());
    let config = Config::load(None, &[key].into()).unwrap();
    for (name, row) in rows() {
        let changed = match name.replace("providers.ID", "providers.piapi_flux") {
            name if name.starts_with("auth.keys.") => "auth.keys".to_owned(),
            name if name.ends_with(".prices") => format!("{name}.Qubico/flux1-dev"),
            name => name,
        };
        let mut fresh = config.clone();
        fresh.origin.note_secret(changed, "another value");
        let (_, applied, waiting) = config.taking_over(&fresh);
        assert_eq!(applied.len() + waiting.len(), 1, "{name}");
        assert_eq!(row.reload, if waiting.is_empty() { "yes" } else { "no" }, "{name}");
    }
}
