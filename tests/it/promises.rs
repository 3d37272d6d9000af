//! Every promise of `docs/promises.md` names a test, and that test exists.

use std::fs;
use std::path::Path;

/// The rows of the table of promises: the promise, and what stands in the column of tests.
fn rows(page: &str) -> Vec<(&str, &str)> {
    let table = page.split_once("| promise | limit | test |").expect("the page has a table of promises").1;
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 3, "a row of the table of promises has three cells: {line}");
            (cells[0], cells[2])
        })
        .collect()
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/promises.md")).unwrap();
    let rows = rows(&page);
    assert!(rows.len() >= 8, "only {} promises", rows.len());
    for (promise, tests) in rows {
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test for: {promise}");
        for name in names {
            let (file, function) = name.split_once("::").unwrap_or_else(|| panic!("{name} is not file::test"));
            let path = root.join("tests/it").join(format!("{file}.rs"));
            let code = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let is_test =
                ["", "pub(crate) "].iter().any(|public| code.contains(&format!("#[test]\n{public}fn {function}(")));
            assert!(is_test, "there is no test {function} in tests/it/{file}.rs, named for: {promise}");
        }
    }
}
