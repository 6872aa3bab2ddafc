//! The report about the machine the tests run on: whatever it is, the table is whole.

use engine::discovery::{Verdict, choose, report};

#[test]
fn every_row_is_judged_and_whatever_is_not_good_has_a_next_step() {
    let report = report();
    assert!(report.rows.len() > 20);
    for row in &report.rows {
        assert!(!row.found.is_empty(), "{row:?}");
        assert_eq!(row.verdict == Verdict::Good, row.next_step.is_none(), "{row:?}");
    }
}

#[test]
fn the_report_and_the_choice_agree() {
    let report = report();
    match choose() {
        Ok(choice) => {
            assert_eq!(report.overall.engine, Some(choice.engine));
            assert!(report.overall.line.contains(&choice.reason));
        }
        Err(none) => {
            assert_eq!(report.overall.engine, None);
            assert!(!none.reasons.is_empty());
        }
    }
}

#[test]
fn the_json_form_keeps_the_words_a_script_looks_for() {
    let json = serde_json::to_value(report()).expect("JSON");
    let row = &json["rows"][0];
    assert_eq!(row["topic"], "processor");
    for key in ["item", "requirement", "found", "verdict", "next_step"] {
        assert!(row.get(key).is_some(), "{key}");
    }
    assert!(json["overall"]["line"].is_string());
}
