use super::changes::Recorded;
use super::frame::Pill;
use super::*;
use crate::board::{Board, Leader, Own, PLANNED_AT_ONCE};
use crate::config::auth::{Patterns, Role};
use crate::config::{Sources, parse};
use crate::job::Verdict;
use crate::ledger::NodeRecord;
use crate::node;
use crate::scheduler::run::{Last, Watermark};
use crate::time::{Boot, Wall};

pub(super) const NOW: &str = "2026-11-27T07:00:00Z";

pub(super) fn at(text: &str) -> Wall {
    text.parse().unwrap()
}

fn boot(seconds: u64) -> Boot {
    Boot::from_duration(Duration::from_secs(seconds))
}

fn status() -> Status {
    let config = parse("version: 1\njobs: {}\n", &Sources::none()).unwrap();
    let status = Status::starting("a", &config);
    Status { role: node::Role::Follower, ready: true, reasons: Vec::new(), ..status }
}

fn record(name: &str) -> NodeRecord {
    NodeRecord {
        node: name.to_owned(),
        version: "0.1.0".to_owned(),
        config_digest: "d".to_owned(),
        config_since: None,
        started_at: at("2026-11-27T05:00:00Z"),
        address: None,
        clock: at("2026-11-27T06:59:57Z"),
        stands_back: None,
        hands_over: None,
        drained: false,
        heard: 0,
        troubles: Vec::new(),
    }
}

/// A board with these jobs, led by `b`.
pub(super) fn board(jobs: &str) -> Board {
    let config = parse(&format!("version: 1\njobs:\n{jobs}"), &Sources::none()).unwrap();
    let mut board = Board::default();
    board.configured(&config.jobs);
    board.node(1, Some(record("a")), at(NOW));
    board.node(2, Some(record("b")), at(NOW));
    board.own(Own { lease: Some(1), config_digest: "d".to_owned(), ..Own::default() });
    board.led_by(Some(Leader { lease: 2, created: 30, since: at("2026-11-27T06:30:00Z") }));
    board.decided(Watermark { instant: at(NOW), job: None });
    while board.plan(at(NOW), PLANNED_AT_ONCE) {}
    board.is_current(at(NOW));
    board
}

/// A person who sees everything, as long as nothing else is said.
fn looker() -> Looker {
    Looker {
        name: None,
        role: Role::Reader,
        jobs: None,
        refused: &[],
        has_login: false,
        said: None,
        zones: Zones::Jobs,
        theme: Theme::System,
        path: "/".to_owned(),
    }
}

pub(super) fn frame(board: &Board, now: &str) -> Frame {
    frame_for(board, now, looker())
}

fn frame_for(board: &Board, now: &str, looker: Looker) -> Frame {
    Frame::of(board, Some(&status()), "shop", (boot(100), at(now)), looker)
}

fn last(verdict: crate::job::Verdict, strip: &str) -> Last {
    Last {
        run: "nightly@2026-11-27T02:30:00Z".parse().unwrap(),
        verdict,
        started_at: Some(at("2026-11-27T02:30:00Z")),
        finished_at: at("2026-11-27T06:59:00Z"),
        code: None,
        lateness_ms: None,
        fence: None,
        bad_in_a_row: 1,
        notified_at: None,
        doubt_notified: false,
        succeeded_at: None,
        strip: strip.to_owned(),
    }
}

const NIGHTLY: &str = "  nightly: {schedule: '30 2 * * *', timezone: Europe/Berlin, command: [echo, x]}\n";

#[test]
fn what_shows_a_state_is_not_moved_out_of_sight() {
    use words::Look;
    let style = include_str!("page.css");
    let out_of_sight = |line: &&str| line.contains("position: absolute") || line.contains("display: none");
    let looks = [
        Look::Good,
        Look::Bad,
        Look::TimedOut,
        Look::Unknown,
        Look::Late,
        Look::Running,
        Look::Waiting,
        Look::Cancelled,
        Look::Skipped,
        Look::Paused,
        Look::Idle,
    ];
    for class in looks.into_iter().flat_map(|look| look.class().split(' ')) {
        let name = format!(".{class}");
        let names_it = |line: &&str| line.split([' ', ',', '{', ':']).any(|part| part == name);
        let rule = style.lines().filter(out_of_sight).find(names_it);
        assert_eq!(rule, None, "a state is shown with the class {class}");
    }
}

#[test]
fn the_pill_says_whether_jobs_are_fired() {
    let mut board = board(NIGHTLY);
    assert_eq!(frame(&board, NOW).firing, Pill::Firing);
    // A day later nothing has been heard, and nothing has been decided.
    let silent = frame(&board, "2026-11-28T07:00:00Z");
    assert!(matches!(&silent.firing, Pill::Unclear(why) if why.contains("has said nothing")), "{:?}", silent.firing);
    board.is_current(at("2026-11-28T07:00:00Z"));
    let late = frame(&board, "2026-11-28T07:00:00Z");
    assert_eq!(late.firing, Pill::Degraded("1 job late".to_owned()));
    board.led_by(None);
    assert!(matches!(frame(&board, "2026-11-28T07:00:00Z").firing, Pill::NotFiring(_)));
    assert!(matches!(frame(&Board::default(), NOW).firing, Pill::Unclear(_)));

    let mut leads = self::board(NIGHTLY);
    leads.own(Own { lease: Some(2), trusted_until: Some(boot(107)), ..Own::default() });
    let status = Status { role: node::Role::Leader, ..status() };
    let of = |seconds| Frame::of(&leads, Some(&status), "shop", (boot(seconds), at(NOW)), looker());
    assert_eq!((of(100).firing, of(100).trusted_for), (Pill::Firing, Some(Duration::from_secs(7))));
    assert!(matches!(of(107).firing, Pill::NotFiring(_)));
}

#[test]
fn the_first_screen_says_what_needs_a_person_before_anything_else() {
    let mut board = board(NIGHTLY);
    let job = JobName::new("nightly").unwrap();
    board.last(&job, Some(last(Verdict::Failed, "ssf")), 1);
    let unknown = Ok((vec!["charge@2026-11-27T06:00:00Z".parse().unwrap()], false));
    let page = now::markup(&now::Now::of(&board, frame(&board, NOW), unknown, Ok(Recorded::default()))).into_string();
    let order = [
        "Firing",
        ">30<",
        "its last sign was",
        "fencron resolve charge@2026-11-27T06:00:00Z --as succeeded",
        "fencron logs nightly@2026-11-27T02:30:00Z",
        "Late, or will not run",
        "No run is open.",
        "2026-11-28 01:30:00Z",
        "02:30:00 +01:00 Europe/Berlin",
        "began to fail",
    ];
    let mut rest = &page[page.find("<main").unwrap()..];
    for words in order {
        rest =
            rest.split_once(words).unwrap_or_else(|| panic!("`{words}` is not in, or not behind the others: {page}")).1;
    }
    let quiet = self::board(NIGHTLY);
    let page = now::markup(&now::Now::of(&quiet, frame(&quiet, NOW), Ok((Vec::new(), false)), Ok(Recorded::default())))
        .into_string();
    assert!(page.contains("Nothing: no run is in doubt, no job fails, no node reports a trouble."), "{page}");
}

#[test]
fn runs_in_doubt_and_defects_of_the_store_are_on_the_first_screen_and_in_its_header() {
    let board = self::board(NIGHTLY);
    let seen = Noticed {
        in_doubt: 2,
        defects: vec!["its disk is <slow>".to_owned()],
        unsent: vec!["`ops` takes <none>".to_owned()],
    };
    let show = |frame: Frame| {
        let view = now::Now::of(&board, frame, Ok((Vec::new(), false)), Ok(Recorded::default()));
        now::markup(&view).into_string()
    };
    let page = show(frame(&board, NOW).noticing(Some(&seen)));
    for words in [
        "degraded",
        "2 runs are in doubt",
        "2 in doubt",
        "1 defect<",
        "its disk is &lt;slow&gt;",
        "<code>ops</code> takes &lt;none&gt;",
    ] {
        assert!(page.contains(words), "`{words}` is not in {page}");
    }
    assert!(!page.contains("Nothing: no run is in doubt"));
    let narrowed = Looker { jobs: Some(Patterns::new(vec!["other".to_owned()]).unwrap()), ..looker() };
    let page = show(frame_for(&board, NOW, narrowed).noticing(Some(&seen)));
    assert!(!page.contains("in doubt</") && !page.contains("its disk") && !page.contains("<code>ops"), "{page}");
}

#[test]
fn a_page_of_jobs_is_small() {
    const MOST: usize = 40_000;
    let jobs: String = (0..200)
        .map(|n| {
            format!(
                "  export-of-shop-{n:03}: {{schedule: '{} 2 * * *', timezone: America/New_York, \
                 description: 'the export of shop {n}', command: [echo, x]}}\n",
                n % 60
            )
        })
        .collect();
    let mut board = board(&jobs);
    let names: Vec<JobName> = board.next_fires().map(|(_, job)| job.clone()).collect();
    for name in &names {
        board.last(name, Some(last(Verdict::Failed, "sssssssssssssfsssssf")), 1);
    }
    let wanted = jobs::Wanted::default();
    let view = jobs::Jobs::of(&board, frame(&board, NOW), wanted).unwrap();
    assert!(view.next.is_some() && view.rows.len() == jobs::JOBS_SHOWN);
    let page = jobs::markup(&view).into_string();
    assert!(page.len() < MOST, "{} bytes", page.len());
}

#[test]
fn filters_keep_each_other_and_a_wrong_place_is_refused() {
    let board = board(NIGHTLY);
    let wanted = jobs::Wanted { q: " Night ".to_owned(), ..jobs::Wanted::default() };
    let page = jobs::markup(&jobs::Jobs::of(&board, frame(&board, NOW), wanted).unwrap()).into_string();
    assert!(page.contains("href=\"jobs?q=Night&amp;state=failing\""), "{page}");
    let wanted = jobs::Wanted { after: Some("<x>".to_owned()), ..jobs::Wanted::default() };
    assert!(jobs::Jobs::of(&board, frame(&board, NOW), wanted).is_err());
}

#[test]
fn a_job_shows_its_next_fires_with_what_the_clocks_do_to_them_and_no_secret() {
    let sources = Sources::none();
    let text = "version: 1\njobs:\n  nightly:\n    schedule: '30 2 * * *'\n    timezone: Europe/Berlin\n    \
                http: {url: 'https://user:hunter2@host/x', headers: {authorization: 'Bearer hunter2'}}\n    owner: Team Ops\n    labels: {team: payments}\n    \
                runbook: 'https://user:hunter2@wiki/nightly'\n";
    let config = parse(text, &sources).unwrap();
    let mut board = Board::default();
    board.configured(&config.jobs);
    let spring = "2026-03-27T12:00:00Z";
    while board.plan(at(spring), PLANNED_AT_ONCE) {}
    let name = JobName::new("nightly").unwrap();
    let view = job::JobView::of(&board, frame(&board, spring), &name, Err("the store is away".to_owned())).unwrap();
    let page = job::markup(&view).into_string();
    for words in ["02:30:00 +01:00", "02:30 does not exist", "the store is away", "Bad in a row"] {
        assert_eq!(page.contains(words), words != "Bad in a row", "`{words}`: {page}");
    }
    assert!(!page.contains("hunter2"), "{page}");
    for link in ["../jobs?q=owner%3A%22Team+Ops%22", "../jobs?q=label%3Ateam%3Dpayments"] {
        assert!(page.contains(&format!("href=\"{link}\"")), "{link}: {page}");
    }
    let runbook = "https://user:***@wiki/nightly";
    assert!(page.contains(runbook) && !page.contains(&format!("href=\"{runbook}")), "a part of it is left out: {page}");
    assert!(job::JobView::of(&board, frame(&board, spring), &JobName::new("other").unwrap(), Ok(Vec::new())).is_none());
}

#[test]
fn the_script_is_short_and_nothing_on_the_page_is_inline() {
    const LINES_MOST: usize = 400;
    assert!(include_str!("page.js").lines().count() <= LINES_MOST);
    let board = board(NIGHTLY);
    let page = now::markup(&now::Now::of(&board, frame(&board, NOW), Ok((Vec::new(), false)), Ok(Recorded::default())))
        .into_string();
    for inline in [" style=", "<style", "onclick", "onload", "onerror", "javascript:"] {
        assert!(!page.contains(inline), "{inline}: {page}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    // Every address is relative, so that a prefix may stand before it.
    for address in page.split("href=\"").skip(1).chain(page.split("src=\"").skip(1)) {
        assert!(!address.starts_with(['/', 'h']), "{}", &address[..40]);
    }
}

#[test]
fn the_week_counts_the_fires_of_each_hour_in_the_zone_of_most_jobs() {
    let board = board(NIGHTLY);
    let plan = week::Plan::of(&board, frame(&board, NOW), week::Wanted::default());
    let page = week::markup(&week::Week::of(plan).unwrap()).into_string();
    assert!(page.contains("hour by hour in <b>Europe/Berlin</b>") && page.contains("Fri 2026-11-27"), "{page}");
    assert_eq!(page.matches("<td class=\"num heat h4\">1</td>").count(), 7, "{page}");
}

/// Two jobs of which a person sees one: both fail, and the next fires of both are known.
fn two_jobs() -> Board {
    let mut board = board(&format!("{NIGHTLY}  payroll: {{schedule: '30 3 * * *', command: [echo, x]}}\n"));
    for name in ["nightly", "payroll"] {
        let last = Last { run: format!("{name}@2026-11-27T02:30:00Z").parse().unwrap(), ..last(Verdict::Failed, "f") };
        board.last(&JobName::new(name).unwrap(), Some(last), 1);
    }
    board
}

#[test]
fn a_person_who_is_narrowed_to_some_jobs_reads_nothing_of_the_others() {
    let mut board = two_jobs();
    board.node(3, Some(NodeRecord { troubles: vec!["payroll is wrong".to_owned()], ..record("c") }), at(NOW));
    let jobs = Some(Patterns::new(vec!["night*".to_owned()]).unwrap());
    let person = Looker { name: Some("ann".to_owned()), jobs, refused: &["/leadership", "/store"], ..looker() };
    let frame = || frame_for(&board, NOW, person.clone());
    assert_eq!((frame().counts.jobs, frame().counts.failing), (1, 1));
    let trouble = trouble::Trouble::of(&board, frame(), Ok((Vec::new(), false)), Ok((Vec::new(), false)));
    let week = week::Week::of(week::Plan::of(&board, frame(), week::Wanted::default())).unwrap();
    for page in [
        now::markup(&now::Now::of(&board, frame(), Ok((Vec::new(), false)), Ok(Recorded::default()))),
        jobs::markup(&jobs::Jobs::of(&board, frame(), jobs::Wanted::default()).unwrap()),
        trouble::markup(&trouble),
        week::markup(&week),
    ] {
        let page = page.into_string();
        assert!(!page.contains("payroll"), "{page}");
        assert!(page.contains("You see the jobs <b><bdi>night*</bdi></b>"), "{page}");
        assert!(page.contains("href=\"./week\"") && !page.contains("href=\"./leadership\""), "{page}");
    }
    let all =
        now::markup(&now::Now::of(&board, self::frame(&board, NOW), Ok((Vec::new(), false)), Ok(Recorded::default())))
            .into_string();
    assert!(all.contains("payroll") && all.contains("href=\"./leadership\""), "{all}");
}

#[test]
fn each_screen_is_in_the_zone_and_the_colours_that_its_person_chose() {
    let board = board(NIGHTLY);
    let page = |zones: Zones, theme: Theme| {
        let frame = frame_for(&board, NOW, Looker { zones, theme, ..looker() });
        now::markup(&now::Now::of(&board, frame, Ok((Vec::new(), false)), Ok(Recorded::default()))).into_string()
    };
    let both = page(Zones::Jobs, Theme::System);
    assert!(both.contains(">2026-11-28 01:30:00Z <i>") && both.contains("02:30:00 +01:00 Europe/Berlin"), "{both}");
    let utc = page(Zones::Utc, Theme::Dark);
    assert!(utc.contains(">2026-11-28 01:30:00Z <i>") && !utc.contains("Europe/Berlin</small>"), "{utc}");
    assert!(utc.contains("data-theme=\"dark\"") && utc.contains("Times are in UTC where"), "{utc}");
    let mine = page("America/New_York".parse().unwrap(), Theme::Light);
    assert!(mine.contains(">20:30:00 -05:00 <i>") && mine.contains("02:30:00 +01:00 Europe/Berlin"), "{mine}");
    assert!(mine.contains("Times are in America/New_York where"), "{mine}");
    let week = week::Plan::of(
        &board,
        frame_for(&board, NOW, Looker { zones: "Asia/Tokyo".parse().unwrap(), ..looker() }),
        week::Wanted::default(),
    );
    assert!(week::markup(&week::Week::of(week).unwrap()).into_string().contains("hour by hour in <b>Asia/Tokyo</b>"));
}

#[test]
fn a_definition_has_the_statements_and_the_dates_on_which_it_does_not_fire() {
    let text = "version: 1\ncalendars: {closed: {dates: ['2026-12-24..2027-01-01']}}\njobs:\n  settle:\n    \
                schedule: '@daily'\n    except: closed\n    \
                sql: {database: 'sqlite:/srv/shop.db', statement: \"DELETE FROM old;\\nUPDATE day SET n = 1\"}\n";
    let config = parse(text, &Sources::none()).unwrap();
    let mut board = Board::default();
    board.configured(&config.jobs);
    let name = JobName::new("settle").unwrap();
    let view = job::JobView::of(&board, frame(&board, NOW), &name, Ok(Vec::new())).unwrap();
    let page = job::markup(&view).into_string();
    for words in ["DELETE FROM old;\nUPDATE day SET n = 1", "2026-12-24..2027-01-01", "sqlite /srv/shop.db"] {
        assert!(page.contains(words), "`{words}`: {page}");
    }
}
