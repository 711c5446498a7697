//! `docs/hostile-cases.md` names the test of each case: every test it names exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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

#[test]
fn every_test_the_table_names_exists() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(base.join("docs/hostile-cases.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 40, "the table was not read: {}", rows.len());
    let (mut files, mut missing, mut cases) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for room in ["src", "tests"] {
        sources(&base.join(room), &mut files);
    }
    for row in rows {
        assert!(cases.insert(row.split('|').nth(1).unwrap().trim()), "twice: {row}");
        // The last column: `module::test`, several of them.
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        for name in tests.split('`').skip(1).step_by(2) {
            let (module, test) = name.rsplit_once("::").unwrap();
            let last = module.rsplit("::").next().unwrap();
            let defined = files.iter().any(|file| {
                let here = file.file_stem().is_some_and(|stem| stem == last)
                    || (file.ends_with(format!("{last}/mod.rs"))
                        || file.ends_with(format!("{last}/tests.rs")));
                here && fs::read_to_string(file).unwrap().contains(&format!("fn {test}("))
            });
            if !defined {
                missing.insert(name);
            }
        }
    }
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    for (letter, most) in [('S', 28), ('U', 24)] {
        for number in 1..=most {
            let case = format!("{letter}{number}");
            assert!(cases.contains(case.as_str()), "{case} is not in the table");
        }
    }
}
