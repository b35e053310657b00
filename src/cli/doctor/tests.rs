use super::*;

#[test]
fn each_check_is_in_the_documents_and_no_other() {
    let page = include_str!("../../../docs/operations.md");
    let section = page.split_once("\n## Doctor\n").unwrap().1.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let checks: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(rows.collect::<Vec<_>>(), checks);
}

#[test]
fn the_pages_about_findings_are_there() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for check in CHECKS {
        let (path, heading) = check.docs.split_once('#').unwrap_or((check.docs, ""));
        let text = std::fs::read_to_string(top.join(path)).unwrap();
        let slug = |line: &str| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().replace(' ', "-")
        };
        let is_there = heading.is_empty() || text.lines().any(|line| line.starts_with('#') && slug(line) == heading);
        assert!(is_there, "{}", check.docs);
    }
}

#[test]
fn what_was_found_is_shown_with_what_to_do_and_where_to_read() {
    let outcomes = vec![
        ("store-answers", Outcome::Looked(vec![Found::broken("etcd://a cannot be reached", "start it")])),
        ("store-latency", Outcome::Skipped("the store does not answer".into())),
        ("versions", Outcome::Looked(Vec::new())),
        (
            "paused",
            Outcome::Looked(vec![
                Found::warning("a is paused", "resume it"),
                Found::warning("b is paused", "resume it"),
            ]),
        ),
    ];
    let view = view(outcomes);
    assert!(!view.ok);
    assert_eq!(
        text(&view),
        "broken   store-answers       etcd://a cannot be reached: start it\n\
         skipped  store-latency       the store does not answer\n\
         warning  paused              a is paused: resume it\n\
         warning  paused              b is paused: resume it\n\
         ok       versions\n\
         1 broken, 2 to look at, 1 skipped\n\
         see docs/operations.md#a-store-that-is-slow-or-away, docs/cli.md#steering\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_ends_and_says_so() {
    let (name, outcome) = bounded("hosts", std::future::pending()).await;
    let Outcome::Looked(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!((name, found[0].what.as_str()), ("hosts", "it was not known within 15 s"));
}
