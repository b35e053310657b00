use super::*;

fn fence(number: u64) -> Fence {
    Fence::new(number).unwrap()
}

fn found(seen: u64) -> Found {
    Found { seen: Fence::new(seen), entry: None, older_in_flight: false, full: false }
}

fn entry(progress: Progress) -> Option<Entry> {
    Some(Entry { payload: Payload::Same, progress })
}

fn verdict(found: &Found, number: u64) -> Decision {
    decide(found, fence(number), InDoubt::Refuse)
}

#[test]
fn staleness_is_looked_at_before_the_key() {
    for progress in [Progress::Done, Progress::InFlight, Progress::InDoubt] {
        let found = Found { entry: entry(progress), ..found(7) };
        assert_eq!(verdict(&found, 6), Decision::Stale { seen: fence(7) });
    }
}

#[test]
fn an_equal_fence_is_let_in() {
    assert_eq!(verdict(&found(7), 7), Decision::Admit);
    assert_eq!(verdict(&found(0), 1), Decision::Admit);
}

#[test]
fn a_done_key_is_replayed_without_waiting_for_older_fences() {
    let found = Found { entry: entry(Progress::Done), older_in_flight: true, ..found(7) };
    assert_eq!(verdict(&found, 8), Decision::Replay);
}

#[test]
fn a_newer_fence_waits_for_older_ones_in_flight() {
    assert_eq!(verdict(&Found { older_in_flight: true, ..found(7) }, 8), Decision::Wait);
}

#[test]
fn another_payload_is_said_before_progress() {
    for progress in [Progress::Done, Progress::InFlight, Progress::InDoubt] {
        let entry = Some(Entry { payload: Payload::Other, progress });
        assert_eq!(verdict(&Found { entry, ..found(7) }, 7), Decision::OtherPayload);
    }
}

#[test]
fn what_is_done_for_somebody_who_is_not_known_is_in_doubt() {
    let entry = |progress| Some(Entry { payload: Payload::Unknown, progress });
    let done = Found { entry: entry(Progress::Done), ..found(7) };
    assert_eq!(verdict(&done, 7), Decision::InDoubt);
    assert_eq!(decide(&done, fence(7), InDoubt::Repeat), Decision::InDoubt, "it was done, whoever asks again");
    let begun = Found { entry: entry(Progress::InFlight), ..found(7) };
    assert_eq!(verdict(&begun, 7), Decision::InFlight);
}

#[test]
fn a_digest_without_a_caller_tells_nothing_of_one_with() {
    let (old, new) = (Digest::of([&b"it"[..]]), Digest::with_caller([&b"it"[..]]));
    assert_eq!(new.stands_to(old.as_bytes()), Payload::Unknown);
    assert_eq!(new.stands_to(new.as_bytes()), Payload::Same);
    assert_eq!(new.stands_to(Digest::with_caller([&b"that"[..]]).as_bytes()), Payload::Other);
    assert_eq!(old.stands_to(new.as_bytes()), Payload::Other);
    assert_eq!(old.stands_to(Digest::of([&b"that"[..]]).as_bytes()), Payload::Other);
}

#[test]
fn a_fence_steps_no_further_than_a_leader_would() {
    let first = FENCES_BELOW + FENCE_STEP_MOST;
    for seen in [0, 7, FENCES_BELOW] {
        assert_eq!(verdict(&found(seen), first), Decision::Admit);
        assert_eq!(verdict(&found(seen), first + 1), Decision::TooFar { most: first });
    }
    assert_eq!(verdict(&found(first), first + FENCE_STEP_MOST), Decision::Admit);
    assert_eq!(verdict(&found(FENCE_MOST - 1), FENCE_MOST), Decision::Admit);
    assert!(!Decision::TooFar { most: first }.has_seen());
}

#[test]
fn doubt_is_refused_unless_told_otherwise() {
    let found = Found { entry: entry(Progress::InDoubt), ..found(7) };
    assert_eq!(verdict(&found, 8), Decision::InDoubt);
    assert_eq!(decide(&found, fence(8), InDoubt::Repeat), Decision::Admit);
}

#[test]
fn a_key_that_is_there_needs_no_room() {
    let full = Found { full: true, ..found(7) };
    assert_eq!(verdict(&full, 7), Decision::Full);
    assert_eq!(verdict(&Found { entry: entry(Progress::Done), ..full.clone() }, 7), Decision::Replay);
    let doubt = Found { entry: entry(Progress::InDoubt), ..full };
    assert_eq!(decide(&doubt, fence(7), InDoubt::Repeat), Decision::Admit);
}

#[test]
fn a_guard_cannot_be_asked_with_texts_beyond_their_bounds() {
    let digest = Digest::of([]);
    let long = "x".repeat(NAME_MOST + 1);
    for (scope, key) in [("", None), (long.as_str(), None), ("s", Some("")), ("s", Some(long.as_str())), ("a\0", None)]
    {
        assert!(matches!(Request::new(scope, fence(1), key, digest), Err(Refusal::Malformed(_))), "{scope} {key:?}");
    }
    assert!(Request::new("s", fence(FENCE_MOST + 1), None, digest).is_err());
    assert!(Request::new("s", fence(FENCE_MOST), Some("k"), digest).is_ok());
}
