//! A store in PostgreSQL after a failover: what can be seen of it before it is adopted, and that it goes on after.

use crate::support::databases::{Kind, Server};
use crate::{NodeProcess, Place};

const ADOPT: &str = "fencron store adopt";

#[test]
fn what_is_in_a_store_can_be_seen_before_it_is_adopted_and_jobs_run_again_after() {
    let (place, server) = (Place::new(), Server::shared(Kind::Postgres));
    let database = server.database();
    let with = |args: &[&str]| [args, &["--store", &database.url]].concat().iter().map(ToString::to_string).collect();
    let json = |args: &[&str]| {
        let args: Vec<String> = with(args);
        place.json(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let run: Vec<String> = with(&["run", "--node", "a", "--ttl", "2s"]);
    let node = NodeProcess::spawn(place.command(&run.iter().map(String::as_str).collect::<Vec<_>>()));
    node.wait_for(" leading ");
    let fine = json(&["trigger", "fine"])["run_id"].as_str().unwrap().to_owned();
    node.wait_for("verdict=succeeded");
    let fence = json(&["status"])["leader"]["fence"].as_u64().unwrap();

    // As a failover leaves it: another timeline.
    server.ask(&database.name, "UPDATE fencron.meta SET timeline = timeline + 1");
    node.wait_for(ADOPT);
    let status = json(&["status"]);
    let warnings = status["store"]["warnings"].to_string();
    assert!(warnings.contains(ADOPT), "{status:#}");
    assert_eq!(status["nodes"][0]["node"], "a", "{status:#}");
    assert_eq!(json(&["runs", "--job", "fine"])[0]["run_id"], fine.as_str());
    let jobs = json(&["jobs", "--job", "fine"]);
    assert_eq!(jobs[0]["last_verdict"], "succeeded", "{jobs:#}");
    let refused: Vec<String> = with(&["trigger", "fine"]);
    let refused = place.run(&refused.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.code() != 0 && refused.stderr().contains(ADOPT), "{}", refused.stderr());

    let adopted = json(&["store", "adopt", "--yes"]);
    assert!(adopted["begins_at"].as_u64() > Some(fence), "{adopted:#}");
    // The hold of the node was not lost: it still leads, or leads anew where a claim was refused meanwhile.
    json(&["trigger", "fine"]);
    node.wait_for("verdict=succeeded");
    let after = json(&["status"]);
    assert_eq!(after["leader"]["node"], "a", "{after:#}");
    assert!(!after["store"]["warnings"].to_string().contains(ADOPT), "{after:#}");
}
