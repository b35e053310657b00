//! What the ends of a request mean, and what is kept of its answer.

use std::time::Duration;

use fencron::execute::MayStart;
use fencron::fence::Fence;
use fencron::job::{Again, OUTPUT_KEPT, Outcome, RetryOn, StopReason};

use crate::attempt::{begin, failed, in_doubt, request, run, run_within, statuses};
use crate::server::{Answer, Server, answer};

/// How long a server that hangs is waited for: a busy machine takes a while to send the request and to read what came.
const HANGS: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_expected_status_is_done_and_its_answer_is_kept() {
    let server = Server::with(201, "content-type: application/json\r\n", "{\"id\": 1}");
    let ended = run(request("POST", &server.url())).await;
    assert_eq!(ended.outcome, Outcome::Done);
    assert_eq!(ended.output, "HTTP/1.1 201 Created\n{\"id\": 1}\n");
}

#[tokio::test]
async fn what_is_expected_can_be_said() {
    let server = Server::with(404, "", "");
    let mut http = request("DELETE", &server.url());
    http.expect = statuses("2xx 404");
    assert_eq!(run(http).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn another_status_has_failed_and_says_whether_it_helps_to_repeat_it() {
    for (status, head, again) in [
        (400, "", Again::Never),
        (404, "retry-after: 3\r\n", Again::Never),
        (409, "", Again::Never),
        (409, "retry-after: 3\r\n", Again::After(Duration::from_secs(3))),
        (422, "", Again::Never),
        (408, "", Again::AsConfigured),
        (425, "", Again::AsConfigured),
        (429, "retry-after: 120\r\n", Again::After(Duration::from_secs(120))),
        (500, "", Again::AsConfigured),
        (503, "retry-after: Sat, 21 Nov 2026 00:00:30 GMT\r\ndate: Sat, 21 Nov 2026 00:00:00 GMT\r\n", {
            Again::After(Duration::from_secs(30))
        }),
        (503, "retry-after: soon\r\n", Again::AsConfigured),
    ] {
        let server = Server::with(status, head, "why");
        let url = server.url();
        let ended = run(request("POST", &url)).await;
        let (why, then) = failed(&ended);
        assert!(why.starts_with(&format!("POST {url} was answered with {status}")), "{why}");
        assert!(why.contains("not 2xx"), "{why}");
        assert_eq!(then, again, "{status} {head}");
        assert!(ended.output.contains(&format!("HTTP/1.1 {status}")) && ended.output.contains("why"));
    }
}

#[tokio::test]
async fn a_job_can_say_after_what_it_is_repeated() {
    let server = Server::start(|request| match request.line.contains("418") {
        true => answer(418, "", ""),
        false => answer(500, "", ""),
    });
    for (path, again) in [("418", Again::AsConfigured), ("500", Again::Never)] {
        let mut http = request("GET", &format!("{}/{path}", server.url()));
        http.retry_on = Some(RetryOn { connect: false, no_answer: false, statuses: statuses("418") });
        assert_eq!(failed(&run(http).await).1, again);
    }
    let mut http = request("GET", &format!("http://{}/", crate::server::nobody()));
    http.retry_on = Some(RetryOn { connect: false, no_answer: true, statuses: statuses("418") });
    assert_eq!(failed(&run(http).await).1, Again::Never);
}

#[tokio::test]
async fn a_guard_that_has_seen_a_greater_fence_ends_it() {
    let server = Server::with(412, "fencing-token-seen: 9\r\n", "stale");
    let mut http = request("POST", &server.url());
    http.expect = statuses("412");
    assert_eq!(run(http).await.outcome, Outcome::Fenced { seen: Fence::new(9) });
}

#[tokio::test]
async fn a_412_without_a_greater_fence_is_an_ordinary_failure() {
    for head in ["", "fencing-token-seen: 7\r\n", "fencing-token-seen: none\r\n"] {
        let server = Server::with(412, head, "");
        assert_eq!(failed(&run(request("PUT", &server.url())).await).1, Again::Never, "{head}");
    }
}

#[tokio::test]
async fn a_guard_that_does_not_know_of_an_earlier_attempt_leaves_it_in_doubt() {
    let server = Server::with(409, "fencron-guard: in-doubt\r\n", "");
    assert!(in_doubt(&run(request("POST", &server.url())).await).contains("does not know"));
    // There is one attempt, so it is the last.
    let server = Server::with(409, "fencron-guard: in-flight\r\nretry-after: 1\r\n", "");
    assert!(in_doubt(&run(request("POST", &server.url())).await).contains("in flight"));
}

#[tokio::test]
async fn a_guard_that_cannot_reach_the_service_has_done_nothing() {
    let server = Server::with(502, "fencron-guard: unreachable\r\n", "");
    assert_eq!(failed(&run(request("POST", &server.url())).await).1, Again::AsConfigured);
}

#[tokio::test]
async fn a_gateway_without_an_answer_leaves_a_post_in_doubt() {
    let server = Server::with(504, "", "");
    let ended = run(request("POST", &server.url())).await;
    assert!(in_doubt(&ended).contains("only the receiver knows"));
    assert_eq!(failed(&run(request("PUT", &server.url())).await).1, Again::AsConfigured);
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_is_in_doubt_unless_it_bears_repetition() {
    let server = Server::start(|_| Answer::Hang);
    let limit = Duration::from_millis(200);
    for method in ["POST", "PATCH", "PURGE"] {
        let ended = run_within(limit, request(method, &server.url())).await;
        assert!(in_doubt(&ended).contains("the timeout of 200ms has passed"));
        assert!(ended.started_at.is_some());
    }
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(run_within(limit, request(method, &server.url())).await.outcome, Outcome::TimedOut);
    }
    let mut http = request("PUT", &server.url());
    http.retry_on = Some(RetryOn { connect: true, no_answer: false, statuses: statuses("500") });
    assert_eq!(failed(&run_within(limit, http).await).1, Again::Never);
}

#[tokio::test]
async fn one_that_was_not_sent_in_time_is_in_no_doubt() {
    let listener = crate::server::silent();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let ended = run_within(Duration::from_millis(200), request("POST", &url)).await;
    assert_eq!((ended.outcome, ended.started_at), (Outcome::TimedOut, None));
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_leaves_it_in_doubt() {
    let server = Server::start(|_| Answer::Bytes(Vec::new()));
    let ended = run(request("POST", &server.url())).await;
    in_doubt(&ended);
    server.request();
    assert!(!server.was_asked(), "it is not sent again behind our back");
    let ended = run(request("GET", &server.url())).await;
    assert_eq!(failed(&ended).1, Again::AsConfigured);
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_say_that_it_was_done() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let server = Server::start(move |_| Answer::Bytes(head.into()));
    let ended = run(request("POST", &server.url())).await;
    in_doubt(&ended);
    assert_eq!(ended.output, "HTTP/1.1 200 OK\nhalf\n(the answer broke off after 4 bytes)\n");
    assert_eq!(failed(&run(request("GET", &server.url())).await).1, Again::AsConfigured);

    let server = Server::start(move |_| Answer::Then(head.into()));
    let ended = run_within(HANGS, request("POST", &server.url())).await;
    assert!(in_doubt(&ended).contains("the timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_stands_whatever_becomes_of_the_rest_of_its_answer() {
    let head = "HTTP/1.1 400 Bad\r\ncontent-length: 100\r\n\r\nhalf";
    for answer in [Answer::Bytes as fn(Vec<u8>) -> Answer, Answer::Then] {
        let server = Server::start(move |_| answer(head.into()));
        let ended = run_within(HANGS, request("POST", &server.url())).await;
        assert_eq!(failed(&ended).1, Again::Never);
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let server = Server::start(move |_| Answer::Then(head.into()));
    let attempt = begin(request("POST", &server.url()), None, MayStart::always());
    server.request();
    attempt.stopper.stop(StopReason::Asked);
    assert_eq!(attempt.end().await.outcome, Outcome::Stopped(StopReason::Asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_end_is_read_so_far_and_no_further() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
    let server = Server::start(move |_| Answer::Endless(head.into()));
    let ended = run(request("POST", &server.url())).await;
    assert_eq!(ended.outcome, Outcome::Done);
    server.client_gone();
    assert!(ended.output.len() <= OUTPUT_KEPT);
    assert!(ended.output.contains("(HTTP/1.1 200 OK: the first 67") && ended.output.ends_with("and no more)\n"));
}

#[tokio::test]
async fn the_status_is_kept_with_the_end_of_a_long_answer() {
    let server = Server::start(|_| answer(200, "content-type: text/plain\r\n", vec![b'a'; 20_000]));
    let ended = run(request("GET", &server.url())).await;
    assert!(ended.output.ends_with("a\n(HTTP/1.1 200 OK, 20000 bytes)\n"));
}

#[tokio::test]
async fn what_is_no_text_is_kept_as_its_size() {
    for head in ["content-type: image/png\r\n", "", "content-type: text/plain\r\ncontent-encoding: gzip\r\n"] {
        let server = Server::start(move |_| answer(200, head, [0x89, 0, 1, 2, 3]));
        let ended = run(request("GET", &server.url())).await;
        assert!(ended.output.starts_with("HTTP/1.1 200 OK\n(5 bytes that are no text"), "{}", ended.output);
    }
}
