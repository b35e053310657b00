use proptest::prelude::*;

use super::fields::Dialect;
use super::fires::{Clocks, Rule, fires};
use super::*;
use crate::job::Channel;
use crate::schedule::{Dst, Fold, Gap, Schedule, ScheduleSpec, Zones};

fn settings(zone: &str) -> Settings {
    let now = "2026-11-28T00:00:00Z".parse().unwrap();
    Settings { zone: zone.parse().unwrap(), with_users: None, active: false, now }
}

fn crontab_at(path: &str, text: &str, zone: &str) -> Imported {
    let input = Input { name: path.to_owned(), text: text.to_owned() };
    import(Source::Crontab, &[input], &settings(zone))
}

fn crontab(text: &str) -> Imported {
    crontab_at("crontab", text, "Europe/Berlin")
}

/// What became of a line, and why.
fn line(imported: &Imported, line: usize) -> (Fate, &str) {
    let finding = imported.findings.iter().find(|finding| finding.line == line).unwrap();
    (finding.fate, &finding.message)
}

#[track_caller]
fn has(imported: &Imported, text: &str) {
    assert!(imported.yaml.contains(text), "`{text}` is not in:\n{}", imported.yaml);
}

#[test]
fn a_job_of_a_crontab_keeps_its_command_and_is_held() {
    let imported = crontab("# nightly backup\n30 2 * * 1-5\t/usr/local/bin/backup.sh --all \"$HOME\"  \n");
    assert_eq!(imported.jobs, 1);
    has(&imported, "  # nightly backup\n  backup:\n");
    has(&imported, "    schedule: \"30 2 * * 1-5\"\n    timezone: Europe/Berlin\n");
    has(&imported, "    overlap: allow\n    missed: skip\n    enabled: false\n");
    assert_eq!(line(&imported, 1).0, Fate::Ignored);
    assert_eq!(line(&imported, 2), (Fate::Taken, "a job"));
    assert!(imported.comparisons[0].compared >= 100 && imported.comparisons[0].differences.is_empty());
}

#[test]
fn every_line_has_a_finding_and_what_is_not_understood_cannot_be_said() {
    let text =
        "\n# a comment\nMAILTO=ops@example.org\n@reboot /bin/x\n61 * * * * /bin/x\nnonsense\n* * * * *\n0 5 * * * ok\n";
    let imported = crontab(text);
    let fates: Vec<Fate> = (1..=8).map(|number| line(&imported, number).0).collect();
    use Fate::{Cannot, Differs, Ignored, Taken};
    assert_eq!(fates, [Ignored, Ignored, Differs, Cannot, Cannot, Cannot, Cannot, Taken]);
    assert!(line(&imported, 4).1.contains("migration"), "it says what to do instead");
    assert!(line(&imported, 5).1.contains("`61` is not within 0-59"));
    has(&imported, "# crontab:4: @reboot /bin/x: replicas start");
}

#[test]
fn variables_belong_to_the_jobs_below_them() {
    let text = "a=1\n0 1 * * * first\nSHELL = \"/bin/bash\"\nHOME=/srv\na='2 3'\nEMPTY=\n0 2 * * * second\n";
    let imported = crontab(text);
    has(&imported, "    env:\n      a: 1\n    overlap");
    has(&imported, "    command: [/bin/bash, -c, second]\n    dir: /srv\n");
    has(&imported, "      HOME: /srv\n      a: 2 3\n      EMPTY: \"\"\n");
}

#[test]
fn the_input_after_a_percent_sign_is_given_to_the_command() {
    let imported = crontab("0 1 * * * mail -s \"$(date +\\%F)\" me%Hello,%%bye\n");
    let body =
        "    shell: |\n      {\n      mail -s \"$(date +%F)\" me\n      } <<'INPUT'\n      Hello,\n\n      bye\n";
    has(&imported, body);
}

#[test]
fn a_system_crontab_has_a_user_on_each_line() {
    let imported = crontab_at("/etc/cron.d/php", "09,39 * * * *  www-data   php clean.php\n0 1 * * * root x\n", "UTC");
    has(&imported, "    command: [runuser, -u, www-data, \"--\", /bin/sh, -c, php clean.php]\n");
    assert!(line(&imported, 1).1.contains("the node has to run as root"));
    has(&imported, "    shell: x\n");
    let own = crontab_at("/var/spool/cron/crontabs/ada", "0 1 * * * root x\n", "UTC");
    has(&own, "    shell: root x\n");
    let says = |imported: &Imported, what: &str| imported.findings.iter().any(|found| found.message.contains(what));
    assert!(says(&own, "crontab of `ada`"), "{:?}", own.findings);
    let copied = crontab_at("saved/ada", "0 1 * * * x\n", "UTC");
    assert!(says(&copied, "crontab of a user") && !says(&imported, "crontab of"), "{:?}", copied.findings);
}

#[test]
fn a_column_of_users_is_found_where_the_path_does_not_say_so() {
    let imported = crontab("0 1 * * * www-data /x\n@daily root /y\n");
    has(&imported, "runuser, -u, www-data");
    assert!(line(&imported, 0).1.contains("`--user` says"));
    let imported = crontab("0 1 * * * root /x\n0 2 * * * /y\n");
    has(&imported, "    shell: root /x\n");
    assert!(line(&imported, 1).1.contains("with `--system` it is one"));
    let imported = crontab_at("/etc/cron.d/x", "0 1 * * * /usr/bin/php x\n", "UTC");
    assert!(line(&imported, 1).1.contains("stands where the user belongs"));
}

#[test]
fn jobs_with_a_star_in_the_minute_or_hour_follow_the_clocks_as_in_cron() {
    let imported = crontab("*/15 2 * * * a\n0 8-18/2 * * * b\n30 2 * * * c\n0 */2 * * * d\n");
    has(
        &imported,
        "schedule: \"*/15 2 * * *\"\n    timezone: Europe/Berlin\n    dst:\n      gap: skip\n      fold: both\n",
    );
    has(&imported, "schedule: \"0 8,10,12,14,16,18 * * *\"\n    timezone: Europe/Berlin\n    shell");
    let different: Vec<_> = imported.comparisons.iter().map(|comparison| comparison.differences.len()).collect();
    assert_eq!(different, [0, 0, 0, 0]);
}

#[test]
fn a_time_that_cron_makes_up_for_twice_is_reported() {
    let imported = crontab("0,30 2 * * * a\n");
    let differences = &imported.comparisons[0].differences;
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert_eq!((differences[0].source, differences[0].here), (2, 1));
    assert_eq!(differences[0].at, "2027-03-28T03:00:00+02:00");
    assert!(line(&imported, 1).1.contains("it fires 2 times there and once here"));
    has(&imported, "# differs: at 2027-03-28T03:00:00+02:00 it fires 2 times there");
}

#[test]
fn cronies_zone_random_delay_and_random_values_are_taken_over() {
    let imported = crontab("CRON_TZ=America/New_York\nRANDOM_DELAY=10\n0~9 2 * * * a\n30 1 * * * b\n");
    has(&imported, "schedule: \"H(0-9) 2 * * *\"\n    timezone: America/New_York\n");
    has(&imported, "    jitter: 10m\n");
    assert!(imported.comparisons[0].not_compared.is_some());
    assert!(imported.comparisons[1].differences.is_empty(), "{:?}", imported.comparisons[1]);
    assert_eq!(line(&crontab("CRON_TZ=Mars/Olympus\n0 1 * * * a\n"), 2).0, Fate::Cannot);
}

#[test]
fn lines_with_carriage_returns_and_without_an_end_are_taken_over_and_reported() {
    let imported = crontab("  0 1 * * * a\r\n-0 2 * * * b\n0 3 * * * c");
    assert_eq!(imported.jobs, 3);
    for (number, words) in [(1, "carriage return"), (2, "does not log"), (3, "no line end")] {
        let (fate, message) = line(&imported, number);
        assert!(fate == Fate::Differs && message.contains(words), "{message}");
    }
}

#[test]
fn what_cron_reads_differently_is_not_guessed() {
    for (text, words) in [
        ("0 22-2 * * * a\n", "names nothing there"),
        ("5/15 * * * * a\n", "cronie refuses it"),
        ("0 0 * * ? a\n", "is not a value of it"),
        ("0 0 L * * a\n", "`L` is not a value"),
        ("1 5 cron.daily nice run-parts /etc/cron.daily\n", "anacrontab"),
        ("0 0 * * * * a\n", "must follow the five fields"),
        ("@every_second a\n", "counts from the end"),
    ] {
        let imported = crontab(text);
        assert_eq!(imported.jobs, 0, "{text}");
        assert!(line(&imported, 1).1.contains(words), "{text}: {}", line(&imported, 1).1);
    }
    assert_eq!(crontab("0 0 * * fri-sun a\n0 0 * * 6-0 b\n0 0 * * 5-7 c\n").jobs, 3);
}

#[test]
fn names_come_from_commands_and_are_unique() {
    for (command, name) in [
        ("cd /srv/app && /usr/bin/php artisan schedule:run >> /dev/null 2>&1", "artisan"),
        ("test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )", "anacron"),
        ("[ -x /usr/bin/certbot ] && perl -e 'sleep 1' && certbot renew", "certbot"),
        ("FOO=1 nice -n 19 ionice -c3 /opt/x/report.py", "report"),
        ("/usr/bin/flock -n /tmp/l /usr/bin/python3 -u /srv/sync.py", "srv-sync"),
        ("$HOME/bin/x", "x"),
        ("\"$CMD\"", "CMD"),
        ("...", "job"),
    ] {
        let (found, _) = command::name(command);
        assert!(!found.is_empty() && crate::job::JobName::new(&found).is_ok(), "{command}: {found}");
        if name != "srv-sync" && !command.contains("perl") && !command.contains("test -x") {
            assert_eq!(found, name, "{command}");
        }
    }
    let imported = crontab("0 1 * * * a\n0 2 * * * a\n0 3 * * * a\n");
    has(&imported, "  a-2:\n");
    has(&imported, "  a-3:\n");
}

#[test]
fn jobs_of_one_command_are_called_after_the_argument_in_which_they_differ() {
    for (commands, names) in [
        (["php artisan queue:work", "php artisan schedule:run"], ["artisan-queue-work", "artisan-schedule-run"]),
        (["/opt/b.sh --daily /srv", "/opt/b.sh --weekly /srv"], ["b-daily", "b-weekly"]),
        (["curl -fsS https://x.y/cron/a?k=1", "curl -fsS 'https://x.y/cron/b/'"], ["curl-a", "curl-b"]),
        (["tool /a/run", "tool /b/run"], ["tool-a-run", "tool-b-run"]),
        (["rsync -a /x /y > /dev/null", "rsync -a /x /z 2>&1"], ["rsync-y", "rsync-z"]),
        (["sync", "sync now"], ["sync", "sync-now"]),
        (["echo a >> f", "date > f"], ["echo", "date"]),
        (["a", "a"], ["a", "a-2"]),
    ] {
        let imported = crontab(&format!("0 1 * * * {}\n0 2 * * * {}\n", commands[0], commands[1]));
        let found = imported.findings.iter().filter(|finding| finding.line > 0).filter_map(|f| f.job.clone());
        assert_eq!(found.collect::<Vec<_>>(), names, "{commands:?}");
    }
}

#[test]
fn what_cron_mails_becomes_a_channel() {
    let text = "0 1 * * * a\nMAILTO=\"ops@example.org, root\"\nMAILFROM=cron@example.org\n0 2 * * * b\n\
                MAILTO=dev@example.org\n\
                0 3 * * * c\nMAILTO=\"\"\n0 4 * * * d\nMAILTO='Ops <o@p>'\n0 5 * * * e\n";
    let imported = crontab(text);
    let config = config::parse(&imported.yaml, &Sources::none()).unwrap();
    let channels = &config.notices.channels;
    assert_eq!(channels.keys().map(String::as_str).collect::<Vec<_>>(), ["mail", "mail-2"]);
    let Channel::Smtp(mail) = &channels["mail"] else { panic!("no mails") };
    assert_eq!((mail.to.join(" "), mail.from.as_str()), ("ops@example.org root@localhost".into(), "cron@example.org"));
    for (job, channel) in [("b", "    notify: mail\n"), ("c", "    notify: mail-2\n"), ("d", "    notify: off\n")] {
        let (_, rest) = imported.yaml.split_once(&format!("\n  {job}:\n")).unwrap();
        let own = rest.split_once("\n\n").map_or(rest, |(own, _)| own);
        assert!(format!("{own}\n").contains(channel), "{job}: {own}");
    }
    assert_eq!((line(&imported, 2).0, line(&imported, 7).0), (Fate::Differs, Fate::Taken));
    assert!(line(&imported, 9).1.contains("`<o@p>` is no address"), "{}", line(&imported, 9).1);
    // A file that mails nothing has no channel.
    let quiet = crontab("MAILTO=\"\"\n0 4 * * * d\n");
    assert!(!quiet.yaml.contains("notify"), "{}", quiet.yaml);
    // No file takes more channels than there may be.
    let many: String = (0..10).map(|n| format!("MAILTO=u{n}\n0 4 * * * d{n}\n")).collect();
    let many = crontab(&many);
    assert_eq!(config::parse(&many.yaml, &Sources::none()).unwrap().notices.channels.len(), 8);
    assert!(line(&many, 18).1.contains("have no channel"), "{}", line(&many, 18).1);
}

#[test]
fn texts_come_back_from_the_yaml_as_they_were() {
    let command = "echo '${HOME}' $${x} \"a: b\" # c\\t \u{85}é: ✓ {a, b} [c] *x &y !z % @ `date` | > '";
    let imported = crontab(&format!("A=${{file:/etc/shadow}}\n0 1 * * * {}\n", command.replace('%', "\\%")));
    let config = config::parse(&imported.yaml, &Sources::none()).unwrap();
    let job = config.jobs.values().next().unwrap();
    let crate::job::Task::Command(words) = &job.task else { panic!("a command") };
    assert_eq!(words[2].expose(), command);
}

const CRON_JOBS: &str = "\
# two of them
apiVersion: v1
kind: ConfigMap
metadata: {name: x}
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: report
  namespace: shop
  labels: {app.kubernetes.io/name: shop, odd: 'a,b'}
spec:
  schedule: '0 2 * * 1-5' # at two
  timeZone: Europe/Berlin
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 200
  successfulJobsHistoryLimit: 5
  jobTemplate:
    spec:
      backoffLimit: 4
      activeDeadlineSeconds: 600
      template:
        spec:
          containers: [{name: x, image: busybox}]
          restartPolicy: Never
---
apiVersion: v1
kind: List
items:
- kind: CronJob
  metadata: {name: sync}
  spec:
    schedule: '@every 90m'
    suspend: true
- kind: CronJob
  metadata: {name: either}
  spec: {suspend: true, schedule: '0 0 */2 * 1,*/3'}
";

fn kubernetes(text: &str) -> Imported {
    let input = Input { name: "cron.yaml".to_owned(), text: text.to_owned() };
    import(Source::Kubernetes, &[input], &Settings { active: true, ..settings("UTC") })
}

#[test]
fn cron_jobs_become_jobs_that_make_their_jobs() {
    let imported = kubernetes(CRON_JOBS);
    assert_eq!(imported.jobs, 3, "{:#?}", imported.findings);
    has(
        &imported,
        "    schedule: \"0 2 * * 1-5\"\n    timezone: Europe/Berlin\n    dst:\n      gap: skip\n      fold: both\n",
    );
    has(&imported, "    timeout: 660s\n    overlap: skip\n    missed:\n      run: latest\n      within: 200s\n");
    has(&imported, "kubectl -n shop create job \"$job\" --from=cronjob/report");
    has(&imported, "    labels:\n      name: shop\n");
    has(&imported, "    history:\n      keep: 6\n");
    has(&imported, "    schedule: \"@every 1h 30m\"\n    timezone: UTC\n");
    assert_eq!(imported.yaml.matches("enabled: false").count(), 2, "what is suspended stays so, with --active too");
    // robfig's rule: `*/2` is no star, and so either of the two days is enough.
    has(&imported, "    schedule: \"0 0 1-31/2 * 1,0-6/3\"\n");
    let fates: Vec<Fate> = imported.findings.iter().map(|finding| finding.fate).collect();
    assert!(!fates.contains(&Fate::Cannot), "{:#?}", imported.findings);
    for (number, fate) in
        [(1, Fate::Ignored), (2, Fate::Ignored), (13, Fate::Taken), (15, Fate::Differs), (23, Fate::Taken)]
    {
        assert_eq!(line(&imported, number).0, fate, "{number}: {}", line(&imported, number).1);
    }
    assert!(imported.comparisons.iter().all(|comparison| comparison.differences.is_empty()));
    assert!(imported.comparisons[2].compared >= 100, "what is suspended is compared too");
}

#[test]
fn a_cron_job_that_cannot_be_taken_over_leaves_the_others() {
    let text = "kind: CronJob\nmetadata: {name: a}\nspec:\n  schedule: '0 0 * * 7'\n---\nkind: {{ .Kind }}\n---\n\
                kind: CronJob\nmetadata: {name: \"b; rm -rf /\"}\nspec: {schedule: '@daily'}\n---\n\
                kind: CronJob\nmetadata: {name: c}\nspec: {schedule: '@daily'}\n";
    let imported = kubernetes(text);
    assert_eq!(imported.jobs, 1, "{:#?}", imported.findings);
    assert!(line(&imported, 4).1.contains("`7` is not within 0-6"));
    assert!(line(&imported, 6).1.contains("helm template"), "{}", line(&imported, 6).1);
    assert!(line(&imported, 9).1.contains("its name is none"));
}

fn read_all(source: Source, inputs: &[(&str, &str)]) -> Imported {
    let inputs: Vec<_> =
        inputs.iter().map(|(name, text)| Input { name: (*name).to_owned(), text: (*text).to_owned() }).collect();
    import(source, &inputs, &Settings { active: true, ..settings("Europe/Berlin") })
}

#[test]
fn jobs_of_dkron_are_taken_over() {
    let text = r#"[
      {"name": "first", "owner": "Team A", "metadata": {"tier": "1"},
       "schedule": "0 30 2 * * *", "timezone": "Europe/Berlin", "concurrency": "forbid", "retries": 2,
       "executor": "shell", "executor_config": {"command": "tar czf '/b k.tgz' /srv", "cwd": "/srv", "env": "A=1,B=2",
         "timeout": "1h30m"}},
      {"name": "second", "parent_job": "first", "schedule": "", "tags": {"role": "web:1"},
       "executor": "http", "executor_config": {"method": "GET", "url": "http://example.org/", "expectCode": "200,206",
         "headers": "[\"X-A: b\"]"}},
      {"name": "asked", "schedule": "@manually", "executor": "shell", "executor_config": {"command": "x", "shell": "true"}},
      {"name": "spread", "schedule": "0 ~ ~ * * *", "executor": "shell", "executor_config": {"command": "x"}},
      {"name": "queue", "schedule": "@every 1m", "executor": "kafka",
       "executor_config": {}}
    ]"#;
    let imported = read_all(Source::Dkron, &[("jobs.json", text)]);
    assert_eq!(imported.jobs, 4, "{:#?}", imported.findings);
    has(
        &imported,
        "    schedule: \"0 30 2 * * *\"\n    timezone: Europe/Berlin\n    dst:\n      gap: skip\n      fold: both\n",
    );
    has(
        &imported,
        "    command: [tar, czf, /b k.tgz, /srv]\n    dir: /srv\n    env:\n      A: 1\n      B: 2\n    timeout: 1h 30m\n",
    );
    has(&imported, "    owner: Team A\n    labels:\n      tier: 1\n");
    has(&imported, "    overlap: skip\n    retry:\n      attempts: 3\n");
    has(
        &imported,
        "    after: first\n    http:\n      url: http://example.org/\n      method: GET\n      headers:\n        X-A: b\n",
    );
    has(&imported, "      expect: [200, 206]\n    timeout: 30s\n");
    // The letters of `spread` come to 639.
    has(&imported, "    schedule: \"0 39 15 * * *\"\n");
    assert_eq!(imported.yaml.matches("enabled: false").count(), 1);
    let queue = imported.findings.iter().filter(|finding| finding.fate == Fate::Cannot);
    assert_eq!(queue.map(|finding| finding.line).collect::<Vec<_>>(), [11, 12]);
    assert!(imported.comparisons.iter().all(|comparison| comparison.differences.is_empty()));
}

const SERVICE: &str = "\
[Unit]
Description=Nightly %i
ConditionACPower=true
[Service]
Type=oneshot
User=ada
Environment=A=1 \"B=2 3\"
EnvironmentFile=-/etc/default/x
WorkingDirectory=/srv
TimeoutStartSec=1h 5min
Nice=19
ExecStartPre=-/bin/mkdir -p \"/srv/a b\"
ExecStart=/usr/bin/backup --to ${TARGET}/%i $FLAGS \\
  --cost=5$$
";

#[test]
fn a_timer_and_its_service_become_one_job() {
    let timer = "# nightly\n[Timer]\nOnCalendar=Mon..Fri *-*-* 02:30\nOnCalendar=Sat 04:00:00\nPersistent=true\n\
                 RandomizedDelaySec=5m\n[Install]\nWantedBy=timers.target\n";
    let timer = timer.replace("[Timer]", "[Timer]\nUnit=backup@home.service");
    let inputs = [("/etc/systemd/system/nightly.timer", timer.as_str()), ("backup@.service", SERVICE)];
    let imported = read_all(Source::Systemd, &inputs);
    assert_eq!(imported.jobs, 1, "{:#?}", imported.findings);
    has(&imported, "  nightly:\n");
    has(
        &imported,
        "    description: Nightly home\n    schedule: [30 2 * * 1-5, 0 4 * * 6]\n    timezone: Europe/Berlin\n",
    );
    has(&imported, "    dst:\n      gap: skip\n    missed:\n      run: latest\n      within: none\n    jitter: 300s\n");
    let text = "\\n/bin/mkdir -p '/srv/a b' || true\\n/usr/bin/backup --to \\\"${TARGET}\\\"'/home' $FLAGS '--cost";
    has(&imported, &text.replace("${", "$${"));
    has(&imported, "    env_file: [/etc/default/x]\n    timeout: 3900s\n    overlap: skip\n");
    assert!(imported.comparisons[0].differences.is_empty(), "{:?}", imported.comparisons);
    let fates: Vec<_> = imported.findings.iter().map(|finding| finding.fate).collect();
    assert!(!fates.contains(&Fate::Cannot), "{:#?}", imported.findings);
}

#[test]
fn a_timer_without_its_service_starts_the_unit_and_one_of_the_boot_cannot_be_said() {
    let inputs =
        [("a.timer", "[Timer]\nOnUnitActiveSec=1h\nOnBootSec=5min\n"), ("b.timer", "[Timer]\nOnBootSec=5min\n")];
    let imported = read_all(Source::Systemd, &inputs);
    has(&imported, "    schedule: \"@every 1h\"\n");
    has(&imported, "    command: [systemctl, start, \"--wait\", a.service]\n");
    assert_eq!(
        (imported.jobs, imported.findings.iter().filter(|finding| finding.fate == Fate::Cannot).count()),
        (1, 1)
    );
}

#[test]
fn the_home_of_a_user_unit_is_that_of_the_node() {
    let of = |service: &str| {
        let inputs = [("a.timer", "[Timer]\nOnCalendar=daily\n"), ("a.service", service)];
        read_all(Source::Systemd, &inputs)
    };
    let imported = of("[Service]\nExecStart=%h/bin/x --to=%h\n");
    has(&imported, "      \"$${HOME}\"'/bin/x' '--to='\"$${HOME}\"\n");
    assert!(imported.findings.iter().any(|f| f.fate == Fate::Differs && f.message.contains("`%h` is `$HOME` here")));
    assert_eq!(of("[Service]\nUser=ada\nExecStart=%h/bin/x\n").jobs, 0, "the manager's home is not that of `ada`");
    assert_eq!(of("[Service]\nExecStart=/bin/x %H\n").jobs, 0);
}

#[test]
fn drop_ins_are_merged_as_systemd_does() {
    let timer = "[Timer]\nOnCalendar=daily\nOnBootSec=5min\nPersistent=true\n";
    let inputs = [
        ("/usr/lib/systemd/system/app-sync.timer", timer),
        ("/usr/lib/systemd/system/app-sync.service", "[Service]\nExecStart=/usr/bin/older\n"),
        ("/etc/systemd/system/app-sync.service", "[Service]\nExecStart=/usr/bin/old\nUser=ada\n"),
        ("/etc/systemd/system/app-sync.timer.d/50-when.conf", "[Timer]\nOnCalendar=\nOnCalendar=*-*-* 03:30:00\n"),
        ("/usr/lib/systemd/system/app-sync.timer.d/50-when.conf", "[Timer]\nOnCalendar=*-*-* 05:00:00\n"),
        ("/etc/systemd/system/app-.timer.d/60-late.conf", "[Timer]\nPersistent=false\n"),
        ("/etc/systemd/system/app-sync.service.d/a.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/new\n"),
        ("/etc/systemd/system/service.d/z.conf", "[Service]\nUser=\nEnvironment=A=1\n"),
    ];
    let imported = read_all(Source::Systemd, &inputs);
    assert_eq!(imported.jobs, 1, "{:#?}", imported.findings);
    has(&imported, "    schedule: \"30 3 * * *\"\n");
    has(&imported, "    missed: skip\n    command: [/usr/bin/new]\n    env:\n      A: 1\n");
    let found = |file: &str, line: usize| {
        let is = |finding: &&Finding| finding.file.ends_with(file) && finding.line == line;
        imported.findings.iter().find(is).map(|finding| finding.fate).unwrap()
    };
    assert_eq!(found("system/app-sync.timer", 2), Fate::Ignored, "its time was taken back");
    assert_eq!(found("etc/systemd/system/app-sync.timer.d/50-when.conf", 3), Fate::Taken);
    assert_eq!(found("usr/lib/systemd/system/app-sync.timer.d/50-when.conf", 2), Fate::Ignored);
    assert_eq!(found("usr/lib/systemd/system/app-sync.service", 2), Fate::Ignored, "another file stands in its place");
    assert_eq!(found("etc/systemd/system/app-sync.service", 2), Fate::Ignored, "its command was taken back");
    assert!(imported.findings.iter().all(|finding| finding.fate != Fate::Cannot), "{:#?}", imported.findings);
}

#[test]
fn a_drop_in_without_its_unit_and_an_empty_timer_are_reported() {
    let inputs = [
        ("lost.timer.d/a.conf", "[Timer]\nOnCalendar=daily\n"),
        ("empty.timer", "[Timer]\nOnCalendar=daily\n"),
        ("empty.timer.d/a.conf", "[Timer]\nOnCalendar=\n"),
        ("lone@.timer", "[Timer]\nOnCalendar=daily\n"),
        ("job@.timer", "[Timer]\nOnCalendar=daily\n"),
        ("job@x.timer", "[Timer]\nOnCalendar=daily\n"),
        ("job@.service", "[Service]\nExecStart=/bin/%i\n"),
        ("job@x.service.d/a.conf", "[Service]\nWorkingDirectory=/x\n"),
        ("job@y.service.d/a.conf", "[Service]\nWorkingDirectory=/y\n"),
    ];
    let imported = read_all(Source::Systemd, &inputs);
    assert_eq!(imported.jobs, 1, "{:#?}", imported.findings);
    has(&imported, "    dir: /x\n");
    let cannot: Vec<&str> = imported
        .findings
        .iter()
        .filter(|finding| finding.fate == Fate::Cannot)
        .map(|finding| finding.message.as_str())
        .collect();
    assert!(cannot.iter().any(|message| message.contains("`lost.timer`, which is not among")), "{cannot:?}");
    assert!(cannot.iter().any(|message| message.contains("nothing else that makes it due")), "{cannot:?}");
    assert!(cannot.iter().any(|message| message.contains("link `lone@NAME.timer`")), "{cannot:?}");
}

#[test]
fn a_unit_that_is_masked_is_not_due() {
    let timer = "[Timer]\nOnCalendar=daily\n";
    let inputs = [
        ("/usr/lib/systemd/system/a.timer", timer),
        ("/usr/lib/systemd/system/b.timer", timer),
        ("/usr/lib/systemd/system/b.service", "[Service]\nExecStart=/bin/b\n"),
        ("/etc/systemd/system/a.timer", ""),
        ("/etc/systemd/system/b.service", ""),
    ];
    let imported = read_all(Source::Systemd, &inputs);
    assert_eq!(imported.jobs, 0, "{}", imported.yaml);
    let masked = imported.findings.iter().filter(|finding| finding.line == 0 && finding.message.contains("is masked"));
    assert_eq!(masked.count(), 2, "{:#?}", imported.findings);
    assert!(imported.findings.iter().all(|finding| finding.fate < Fate::Differs), "{:#?}", imported.findings);
}

#[test]
fn drop_ins_are_looked_for_where_systemd_looks() {
    let found = super::drop_in::directories("app-web-sync@a-b.service").join(" ");
    let template = "app-web-sync@.service app-web-.service app-.service";
    let instance = "app-web-@a-b.service app-web-@.service app-@a-b.service app-@.service";
    assert_eq!(found, format!("app-web-sync@a-b.service {template} {instance} service"));
    assert_eq!(super::drop_in::directories("a.timer"), ["a.timer", "timer"]);
}

#[test]
fn calendars_of_systemd_are_read() {
    for (text, expression) in [
        ("hourly", "0 * * * *"),
        ("*-*-* *:*:00", "* * * * *"),
        ("Mon *-*-* 00:00:00", "0 0 * * 1"),
        ("*:0/15", "0,15,30,45 * * * *"),
        ("Sun,Mon..Wed 8..10/2:30", "30 8,10 * * 0-3"),
        ("*-*-1,15 3:00", "0 3 1,15 * *"),
        ("Mon *-*-01..07 05:00", "0 5 * * 1#1"),
        ("*-02~03 01:00:10", "10 0 1 L-2 2 *"),
        ("Fri *-*~07/1 18:00", "0 18 * * 5L"),
        ("2027..2029-01-01", "0 0 0 1 1 * 2027-2029"),
        ("*-*~5/2 0:00", "0 0 L,L-2,L-4 * *"),
        ("Sat", "0 0 * * 6"),
        ("quarterly", "0 0 1 1,4,7,10 *"),
    ] {
        let event = calendar::read(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(event.expression, expression, "{text}");
    }
    assert_eq!(calendar::read("daily Europe/Berlin").unwrap().zone, Some(chrono_tz::Europe::Berlin));
    assert_eq!(calendar::read("*-*-* 2:00 Europe/Rome").unwrap().zone, Some(chrono_tz::Europe::Rome));
    for wrong in ["25:00", "2:30:15.5", "Mon *-*-05..09", "Foo", "Fri..Mon", "a b c d", "1-2-3-4", "~", ":", "*:*:*:*"]
    {
        assert!(calendar::read(wrong).is_err(), "{wrong}");
    }
}

/// Those of a schedule here, by the rules that an import writes.
fn here(expression: &str, zone: &str, dst: Dst, after: Wall, count: usize) -> Vec<Wall> {
    let spec = ScheduleSpec { expressions: &[expression], timezone: zone, dst, except: &[], job: "a" };
    let schedule = Schedule::parse(&spec, &mut Zones::new()).unwrap();
    schedule.between(after, Wall::MAX).take(count).collect()
}

fn field(least: u32, greatest: u32) -> impl Strategy<Value = String> {
    let value = least..=greatest;
    let item = prop_oneof![
        4 => Just("*".to_owned()),
        2 => (1..70_u32).prop_map(|step| format!("*/{step}")),
        4 => value.clone().prop_map(|value| value.to_string()),
        2 => (value.clone(), value.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (value.clone(), value, 1..40_u32).prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b))),
    ];
    prop::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Without a change of the clocks, what is written here fires as the source does.
    #[test]
    fn an_expression_means_the_same_here(
        fields in (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)),
        vixie in any::<bool>(),
    ) {
        let (minute, hour, date, month, weekday) = fields;
        let dialect = if vixie { Dialect::Vixie } else { Dialect::Robfig };
        let parts = [minute.as_str(), &hour, &date, &month, &weekday];
        let Ok(reading) = fields::read(&parts, dialect) else { return Ok(()) };
        let after: Wall = "2026-11-28T00:00:00Z".parse().unwrap();
        let until = after.plus(std::time::Duration::from_secs(5 * 366 * 86_400));
        let there = fires(&Rule::Cron(vec![reading.cron], chrono_tz::UTC), after, Some(until), 100).unwrap();
        if there.is_empty() {
            return Ok(());
        }
        let found = here(&reading.here, "UTC", Dst::default(), after, there.len());
        prop_assert_eq!(found, there, "{} is {}", parts.join(" "), reading.here);
    }

    /// robfig/cron's search finds every instant that the clocks show, where no midnight is missing.
    #[test]
    fn the_search_of_robfig_and_the_clocks_agree(
        fields in (field(0, 59), field(0, 23), field(1, 31), Just("*".to_owned()), field(0, 6)),
        from in 0..400_i64,
    ) {
        let (minute, hour, date, month, weekday) = fields;
        let parts = [minute.as_str(), &hour, &date, &month, &weekday];
        let Ok(mut reading) = fields::read(&parts, Dialect::Robfig) else { return Ok(()) };
        let zone = chrono_tz::Europe::Berlin;
        let after = Wall::from_millis(1_790_000_000_000 + from * 86_400_000);
        let searched = fires(&Rule::Cron(vec![reading.cron], zone), after, None, 100).unwrap();
        reading.cron.clocks = Clocks::Shown;
        let shown = fires(&Rule::Cron(vec![reading.cron], zone), after, None, searched.len()).unwrap();
        prop_assert_eq!(&searched, &shown);
        let dst = Dst { gap: Gap::Skip, fold: Fold::Both };
        prop_assert_eq!(here(&reading.here, "Europe/Berlin", dst, after, searched.len()), searched);
    }

    #[test]
    fn any_yaml_is_read_and_what_is_written_is_sound(
        text in prop_oneof![
            "\\PC{0,60}",
            "(kind: CronJob\n)?(metadata: [a-z{}: ]{0,20}\n)?(spec: [a-z0-9{}:@*' ]{0,40}\n)?",
        ],
        cut in 0..800_usize,
        noise in "[\\[\\]{}:,'\"&*|>\n -]{0,3}",
    ) {
        let mut whole = CRON_JOBS.to_owned();
        let at = whole.floor_char_boundary(cut.min(whole.len()));
        whole.insert_str(at, &noise);
        for text in [text, whole] {
            let imported = kubernetes(&text);
            let config = config::parse(&imported.yaml, &Sources::none());
            prop_assert!(config.is_ok(), "{}\n{}", config.unwrap_err(), imported.yaml);
        }
    }

    #[test]
    fn any_unit_and_any_json_are_read_and_what_is_written_is_sound(
        value in "[ -~]{0,24}",
        calendar in "[A-Za-z*0-9:.,/~ -]{0,16}",
        key in prop::sample::select(vec!["ExecStart", "Environment", "User", "WorkingDirectory", "TimeoutStartSec"]),
    ) {
        let timer = format!("[Timer]\nOnCalendar={calendar}\nOnUnitActiveSec={value}\n");
        let service = format!("[Service]\nExecStart=/bin/x {value}\n{key}={value}\n{value}\n");
        let json = format!("[{{\"name\": {value:?}, \"schedule\": \"{calendar}\", \"command\": {value:?}}}]");
        for imported in [
            read_all(Source::Systemd, &[("a.timer", &timer), ("a.service", &service)]),
            read_all(Source::Dkron, &[("a.json", &json)]),
        ] {
            let sources = Sources { open: true, ..Sources::none() };
            let config = config::parse(&imported.yaml, &sources);
            prop_assert!(config.is_ok(), "{}\n{}", config.unwrap_err(), imported.yaml);
            prop_assert_eq!(config.unwrap().jobs.len(), imported.jobs);
        }
    }

    /// Whatever is read, nothing panics, and a node takes what is written.
    #[test]
    fn anything_is_read_and_what_is_written_is_sound(
        lines in prop::collection::vec(
            prop_oneof![
                3 => "[*0-9/,~-]{1,4} [*0-9/,-]{1,4} [*0-9/,-]{1,4} [*0-9/,-]{1,3} [*0-7/,-]{1,3} [ -~]{0,20}",
                1 => "[A-Z_]{1,9} ?= ?[ -~]{0,12}",
                1 => "\\PC{0,30}",
                1 => "[@#%\\\\'\"$ a-z]{0,20}",
            ],
            0..8,
        ),
        system in any::<bool>(),
    ) {
        let path = if system { "/etc/crontab" } else { "crontab" };
        let imported = crontab_at(path, &lines.join("\n"), "America/New_York");
        let config = config::parse(&imported.yaml, &Sources::none());
        prop_assert!(config.is_ok(), "{}\n{}", config.unwrap_err(), imported.yaml);
        prop_assert_eq!(config.unwrap().jobs.len(), imported.jobs);
    }
}
