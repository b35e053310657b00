use super::*;
use crate::config::Sources;

fn args(ttl: &str) -> RoundArgs {
    RoundArgs { runs: 3, ttl: crate::time::parse_duration(ttl).unwrap(), gap_most: None }
}

#[test]
fn the_jobs_of_a_drill_are_a_file_of_jobs() {
    let config = crate::config::parse(&jobs("fencron-drill-1", "http://127.0.0.1:80/"), &Sources::none()).unwrap();
    let names: Vec<&str> = config.jobs.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, [CANARY, LATE]);
}

#[test]
fn the_bound_of_the_gap_has_the_ttl_in_it_only_where_the_lease_has_to_run_out() {
    let etcd: StoreUrl = "etcd://10.0.0.1".parse().unwrap();
    let bound = |how| Wanted::of(how, &args("10s"), &etcd).unwrap().gap_most.as_secs();
    assert_eq!([How::Kill, How::StepDown, How::Stop, How::Cut].map(bound), [5, 5, 15, 15]);
}

#[test]
fn a_network_is_cut_only_where_there_is_one_and_a_way_into_it() {
    let refused =
        |url: &str| Wanted::of(How::Cut, &args("10s"), &url.parse().unwrap()).err().map(|error| error.message);
    assert_eq!(refused("etcd://10.0.0.1"), None);
    assert!(refused("sqlite:a.db").unwrap().contains("has no meaning for sqlite:a.db"));
    assert!(refused("etcds://10.0.0.1").unwrap().contains("certificates"));
    assert_eq!(refused("postgres://10.0.0.1/ops"), None);
    assert!(refused("postgres://%2Frun%2Fpostgresql/ops").unwrap().contains("no network between a node and a socket"));
    assert!(refused("postgres://10.0.0.1/ops?sslmode=verify-full").unwrap().contains("certificate"));
}

#[test]
fn a_ttl_of_a_drill_has_bounds() {
    let refused = |ttl| Wanted::of(How::Kill, &args(ttl), &"sqlite:a.db".parse().unwrap()).is_err();
    assert_eq!(["10ms", "2s", "60s", "61s"].map(refused), [true, false, false, true]);
}

#[test]
fn what_a_drill_came_to_fits_a_terminal() {
    let wanted = Wanted { how: How::Stop, rounds: 2, ttl: Duration::from_secs(60), gap_most: Duration::from_secs(65) };
    let take_over = judge::TakeOver { leaderless: 60_123, gap: 60_999 };
    let judgement = Judgement { due: 123_456, stale_sent: 10, take_overs: vec![take_over; 2], ..Judgement::default() };
    let latency = Spread::of(vec![1234.5]);
    let text = table(&view(&wanted, &"sqlite:a.db".parse().unwrap(), judgement, latency));
    assert_eq!(
        text,
        "without a leader  p50  60123 ms   p95  60123 ms   max  60123 ms\n\
         without an effect p50  60999 ms   p95  60999 ms   max  60999 ms  (allowed: 65000 ms)\n\
         store latency     p50 1234.5 ms   p95 1234.5 ms   max 1234.5 ms\n\
         occurrences       123456 due, 0 lost, 0 claimed twice, 0 done twice\n\
         stale effects     10 sent, 0 accepted\n\
         passed\n"
    );
}
