use super::{Emulator, Pattern, Scenario, Wanted, all, end_of};

#[test]
fn every_scenario_says_what_holds_and_where() {
    let scenarios = all().expect("all scenarios are well formed");
    assert!(!scenarios.is_empty());
    for scenario in scenarios {
        assert!(scenario.claim.len() > 40, "{}: no claim", scenario.name);
        assert!(!scenario.machines.is_empty(), "{}", scenario.name);
        let expects = scenario.expect.len()
            + scenario.guests.iter().map(|guest| guest.expect.len()).sum::<usize>();
        assert!(
            expects > 0 || scenario.status.is_some() || !scenario.cases.is_empty(),
            "{} would always hold",
            scenario.name
        );
        for case in &scenario.cases {
            let (of, name) = (&scenario.name, &case.name);
            assert!(!case.expect.is_empty(), "{of}, {name}: no message is wanted");
            for machine in case.cpu.keys() {
                assert!(scenario.machines.contains(machine), "{of}, {name}");
            }
        }
        assert!(
            scenario.cases.is_empty()
                || scenario.expect.is_empty()
                    && scenario.status.is_none()
                    && scenario.append.is_empty(),
            "{}: its cases say what it expects",
            scenario.name
        );
    }
}

#[test]
fn a_guests_end_is_told_from_others() {
    let line = "monitor: guest a ended: status 1 (triple fault)";
    assert_eq!(end_of("a", line), Some("status 1 (triple fault)"));
    assert_eq!(end_of("b", line), None);
    assert_eq!(end_of("a", "monitor: guest a exits: halt 1"), None);
}

#[test]
fn a_case_says_what_is_different() {
    let text = r#"
        claim = "x"
        machines = ["qemu"]
        limit = 1
        [[case]]
        name = "one"
        cpu = { qemu = "max,-svm" }
        files = { "one/kernel" = "text" }
        without = ["root"]
        expect = ["y"]
    "#;
    let scenario: Scenario = toml::from_str(text).expect("well formed");
    let case = &scenario.cases[0];
    assert_eq!(case.cpu[&Emulator::Qemu], "max,-svm");
    assert_eq!(case.files["one/kernel"], "text");
    assert_eq!((case.status, case.cut), (None, None));
    let unknown = text.replace("without", "witout");
    assert!(toml::from_str::<Scenario>(&unknown).is_err());
}

#[test]
fn patterns_are_answered_in_their_order() {
    let patterns = ["a", "b"].map(|text| Pattern(regex::Regex::new(text).expect("fine")));
    let mut wanted = Wanted::new("x", &patterns);
    wanted.hear("b");
    wanted.hear("ab");
    assert_eq!(wanted.patterns.len(), 1);
    wanted.hear("b");
    assert!(wanted.patterns.is_empty());
}
