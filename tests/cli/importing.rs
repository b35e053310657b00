//! Jobs of other schedulers as a jobs file.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use crate::Place;

const CRONTAB: &str = "\
# the nightly backup
SHELL=/bin/bash
PATH=/usr/local/bin:/usr/bin:/bin
MAILTO=\"\"
30 2 * * 1-5 /srv/backup.sh --all # everything
*/5 * * * * cd /srv/app && php artisan schedule:run >> /dev/null 2>&1
0 0 1 * mon date +\\%F | mail -s month ops%Dear ops,%% bye
@daily test -x /usr/sbin/x || ${HOME}/bin/y
";

#[test]
fn a_crontab_becomes_a_jobs_file_that_validates_and_runs_as_it_did() {
    let place = Place::new();
    place.write("crontab", CRONTAB);
    let args = ["import", "crontab", "crontab", "--timezone", "Europe/Berlin", "--from", "2026-11-28T00:00:00Z"];
    let ran = place.run(&[&args[..], &["--check", "--to", "imported.yaml"]].concat());
    assert_eq!((ran.code(), ran.stdout().as_str()), (0, ""), "{}", ran.stderr());
    for words in ["crontab:1: ignored", "crontab:5: taken [backup]: a job", "check: artisan: ", "fencron: 4 jobs;"] {
        assert!(ran.stderr().contains(words), "`{words}` is not in: {}", ran.stderr());
    }
    assert_eq!(place.json(&["validate", "imported.yaml"]), serde_json::json!([]));
    place.run(&[&args[..], &["--to", "imported.yaml"]].concat()).fails(1, &["imported.yaml", "name another"]);
    let held = place.json(&["next", "imported.yaml", "--count", "1"]);
    assert!(
        held.as_array().unwrap().iter().all(|job| job["enabled"] == false && job["fires"] == serde_json::json!([]))
    );
    place.run(&[&args[..], &["--active", "--to", "active.yaml"]].concat());
    let active =
        place.json(&["next", "active.yaml", "--job", "backup", "--count", "1", "--from", "2026-11-28T00:00:00Z"]);
    assert_eq!(active[0]["fires"][0]["local"], "2026-11-30T02:30:00+01:00");
}

#[test]
fn a_line_that_cannot_be_said_has_an_exit_code_of_its_own() {
    let place = Place::new();
    let mut child = place.command(&["import", "crontab", "-", "--timezone", "UTC", "-o", "json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"@reboot /srv/start\n0 1 * * * /srv/x\xff\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(view["jobs"], 1);
    let fates: Vec<_> = view["findings"].as_array().unwrap().iter().map(|finding| &finding["fate"]).collect();
    assert_eq!(fates, ["differs", "cannot", "differs"]);
    assert!(view["yaml"].as_str().unwrap().contains("# stdin:1: @reboot /srv/start"));
    place.run(&["import", "crontab", "none"]).fails(2, &["cannot read none"]);
    place.run(&["import", "crontab", "x", "--timezone", "Berlin"]).fails(2, &["Europe/Berlin"]);
}

const CRON_JOB: &str = "\
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: '0 2 * * *'
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never}}}}
";

/// Keeps its Jobs as files, which hold what the Job has come to.
const KUBECTL: &str = r#"#!/bin/sh
[ "$1 $2" = "-n shop" ] || exit 9
shift 2
echo "$*" >>calls
case "$1 $2" in
  "create job") [ "$4" = --from=cronjob/report ] && cat state >"job-$3" ;;
  "get job")
    [ -e "job-$3" ] || exit 0
    [ "$6" = name ] && echo "job.batch/$3" || echo "$3 $(cat "job-$3")" ;;
  "logs "*) echo "what it wrote" ;;
esac
"#;

#[test]
fn the_job_of_a_cron_job_makes_one_job_for_a_run_and_ends_as_it_does() {
    let place = Place::new();
    place.write("cronjob.yaml", CRON_JOB);
    place.write("kubectl", KUBECTL);
    std::fs::set_permissions(place.path("kubectl"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let view = place.json(&["import", "kubernetes", "cronjob.yaml"]);
    let file: Value = serde_yaml::from_str(view["yaml"].as_str().unwrap()).unwrap();
    let shell = file["jobs"]["report"]["shell"].as_str().unwrap();
    let path = format!("{}:{}", place.path("").display(), std::env::var("PATH").unwrap());
    let run = |id: &str, state: &str| {
        place.write("state", state);
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", shell]).current_dir(place.path("")).env("PATH", &path).env("FENCRON_RUN_ID", id);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run("report@1", "Complete"), (Some(0), "what it wrote\n".to_owned()));
    assert_eq!(run("report@1", "Failed").0, Some(0), "another attempt finds the Job that there is");
    assert_eq!(run("report@2", "Failed").0, Some(1));
    let calls = std::fs::read_to_string(place.path("calls")).unwrap();
    assert_eq!(calls.matches("create job report-").count(), 2, "{calls}");
}

/// Knows one fire, whatever it is asked.
const ANALYZE: &str = "#!/bin/sh
echo '    Next elapse: Mon 2026-11-30 02:30:00 CET'
echo '       (in UTC): Mon 2026-11-30 01:30:00 UTC'
";

#[test]
fn systemd_is_asked_for_its_fires_where_it_is_there() {
    let place = Place::new();
    place.write("a.timer", "[Timer]\nOnCalendar=Mon 02:30\n");
    place.write("systemd-analyze", ANALYZE);
    std::fs::set_permissions(place.path("systemd-analyze"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let import = |path: &str, from: &str| {
        let args = ["import", "systemd", "a.timer", "--timezone", "Europe/Berlin", "--check", "--from", from];
        let output = place.command(&args).env("PATH", path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let there = format!("{}:/usr/bin:/bin", place.path("").display());
    let (code, says) = import(&there, "2026-11-28T00:00:00Z");
    assert_eq!(code, Some(0), "{says}");
    assert!(says.contains("check: a: 1 fires are the same (Europe/Berlin, by systemd-analyze)"), "{says}");
    let (code, says) = import(&there, "2026-11-21T00:00:00Z");
    assert_eq!(code, Some(7), "{says}");
    assert!(says.contains("2026-11-23T02:30:00+01:00: 0 there, 1 here"), "{says}");
    let (code, says) = import("/nowhere", "2026-11-28T00:00:00Z");
    assert_eq!(code, Some(0), "{says}");
    assert!(
        says.contains("systemd-analyze cannot be asked") && says.contains("fires are the same (Europe/Berlin)"),
        "{says}"
    );
}

/// As packages, an administrator and `systemctl enable` leave it.
#[test]
fn directories_of_units_are_read_with_their_drop_ins_links_and_masks() {
    let place = Place::new();
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        place.write(name, text);
    };
    let link = |target: &std::path::Path, name: &str| {
        std::fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, place.path(name)).unwrap();
    };
    let (lib, etc) = ("usr/lib/systemd/system", "etc/systemd/system");
    let timer = "[Timer]\nOnCalendar=daily\n";
    for name in ["a", "b", "job@"] {
        write(&format!("{lib}/{name}.timer"), timer);
        write(&format!("{lib}/{name}.service"), "[Service]\nExecStart=/bin/x %i\n");
    }
    link(&place.path(&format!("{lib}/a.timer")), &format!("{etc}/timers.target.wants/a.timer"));
    link(&place.path(&format!("{lib}/job@.timer")), &format!("{etc}/timers.target.wants/job@home.timer"));
    link(std::path::Path::new("/dev/null"), &format!("{etc}/b.timer"));
    write(&format!("{etc}/a.timer.d/when.conf"), "[Timer]\nOnCalendar=\nOnCalendar=*-*-* 03:30:00\n");
    write(&format!("{etc}/a.timer.d/notes.txt"), "nothing that is read");
    let ran = place.run(&["import", "systemd", lib, etc, "--active", "--timezone", "UTC", "--to", "jobs.new.yaml"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let config = place.json(&["next", "jobs.new.yaml", "--count", "1", "--from", "2026-11-28T00:00:00Z"]);
    let fires = config.as_array().unwrap().iter().map(|job| (job["job"].as_str(), job["fires"][0]["local"].as_str()));
    let expected = [("a", "2026-11-28T03:30:00+00:00"), ("job-home", "2026-11-29T00:00:00+00:00")];
    assert_eq!(fires.collect::<Vec<_>>(), expected.map(|(job, at)| (Some(job), Some(at))), "{}", ran.stderr());
    assert!(ran.stderr().contains("b.timer: ignored: it is masked"), "{}", ran.stderr());
}
