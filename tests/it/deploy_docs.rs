//! `docs/deploying.md`: under each block of commands stands what runs it, and that exists.

use std::fs;

use crate::support::tools;

#[test]
fn each_command_of_docs_deploying_names_the_test_that_runs_it() {
    let page = fs::read_to_string(tools::repository("docs/deploying.md")).unwrap();
    let makefile = fs::read_to_string(tools::repository("Makefile")).unwrap();
    let paragraphs: Vec<&str> = page.split("\n\n").collect();
    let mut blocks = 0;
    for pair in paragraphs.windows(2) {
        let [block, run_by] = pair else { continue };
        if !block.starts_with("    ") || run_by.starts_with("    ") {
            continue;
        }
        blocks += 1;
        let is_said =
            ["Tested by `", "Run by `make ", "Not run by a test"].iter().any(|start| run_by.starts_with(start));
        assert!(is_said, "what runs this?\n{block}\n\n{run_by}");
        for name in run_by.split('`').skip(1).step_by(2) {
            if let Some(target) = name.strip_prefix("make ") {
                assert!(makefile.contains(&format!("\n{target}: ")), "there is no target {name}");
            }
            if let Some((file, test)) = name.split_once("::") {
                let code = fs::read_to_string(tools::repository(&format!("tests/it/{file}.rs"))).unwrap();
                assert!(code.contains(&format!("#[test]\nfn {test}(")), "there is no test {name}");
            }
        }
    }
    assert!(blocks >= 10, "only {blocks} blocks of commands");
}
