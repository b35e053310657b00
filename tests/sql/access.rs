//! Databases that cannot be reached, or let nobody in.

use std::path::Path;

use fencron::job::Outcome;

use crate::scene::{attempt, failed, servers, sqlite};
use crate::support::certificates::Certificates;
use crate::support::databases::{Kind, PASSWORD, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_without_it() {
    for db in servers() {
        let url = db.url().replace(PASSWORD, "not-the-password");
        let outcome = attempt(&url, "SELECT 1", "").outcome().await;
        let (why, again) = failed(&outcome);
        assert!(why.contains("correct the user or the password") && !again, "{}: {why}", db.name());
        assert!(!why.contains("not-the-password"), "{}: {why}", db.name());
        let url = format!("{}_none", db.url());
        let outcome = attempt(&url, "SELECT 1", "").outcome().await;
        let (why, again) = failed(&outcome);
        assert!(why.contains("correct `database`") && !again, "{}: {why}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_may_be_up_later() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for db in servers() {
        let ended = attempt(&db.url_at(&format!("127.0.0.1:{port}")), "SELECT 1", "").ended().await;
        let (why, again) = failed(&ended.outcome);
        assert!(why.contains("cannot be reached") && why.contains(&port.to_string()) && again, "{}: {why}", db.name());
        assert_eq!(ended.started_at, None, "{}", db.name());
    }
    let outcome = attempt("sqlite:/none/such/directory/x.db", "SELECT 1", "").outcome().await;
    assert!(failed(&outcome).0.contains("/none/such/directory/x.db"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_create_the_tables_is_told_how_to_have_them_created() {
    for db in servers() {
        let crate::scene::Target::Server(_, database) = &db else { unreachable!() };
        let (name, user) = (&database.name, format!("poor_{}", database.name));
        if db.name() == "PostgreSQL" {
            db.ask(&format!(
                "CREATE ROLE {user} LOGIN PASSWORD 'hunter2-of-the-poor'; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
            ));
        } else {
            db.ask(&format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'hunter2-of-the-poor'"));
            db.ask(&format!("GRANT SELECT ON {name}.* TO '{user}'@'%'"));
        }
        let url = db.url().replace(&format!("fencron:{PASSWORD}"), &format!("{user}:hunter2-of-the-poor"));
        let poor = || attempt(&url, "SELECT 1", "").outcome();
        let outcome = poor().await;
        let (why, again) = failed(&outcome);
        assert!(why.contains("CREATE TABLE IF NOT EXISTS fencron_guard") && !again, "{}: {why}", db.name());
        // Once somebody else has made them, the rights to use them are what is missing.
        assert_eq!(attempt(&db.url(), "SELECT 1", "").outcome().await, Outcome::Done);
        let outcome = poor().await;
        assert!(failed(&outcome).0.contains("INSERT and UPDATE on fencron_guard"), "{}: {outcome:?}", db.name());
        let to = if db.name() == "PostgreSQL" { user.clone() } else { format!("'{user}'@'%'") };
        db.ask(&format!("GRANT SELECT, INSERT, UPDATE ON fencron_guard TO {to}"));
        db.ask(&format!("GRANT SELECT, INSERT, DELETE ON fencron_done TO {to}"));
        let outcome = attempt(&url, "SELECT 1", "").at("2026-11-22T00:00:00Z").outcome().await;
        assert_eq!(outcome, Outcome::Done, "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_is_told() {
    let db = sqlite();
    let crate::scene::Target::File(dir) = &db else { unreachable!() };
    std::fs::write(dir.path().join("text.db"), "this is no database, but long enough to be read as one".repeat(50))
        .unwrap();
    let url = format!("sqlite:{}", dir.path().join("text.db").display());
    let outcome = attempt(&url, "SELECT 1", "").outcome().await;
    assert!(failed(&outcome).0.contains("not a database"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_only_who_its_certificate_says() {
    let certificates = Certificates::make();
    let others = Certificates::make();
    for kind in [Kind::Postgres, Kind::Mariadb] {
        let server = Server::start_with(kind, |directory| encrypted(kind, directory, &certificates, "server"));
        let database = server.database();
        let ask = |host: &str, parameters: String| {
            let url = database.url.replace("127.0.0.1", host);
            attempt(&format!("{url}?{parameters}"), "SELECT 1", "").at("2026-11-22T00:00:00Z").outcome()
        };
        let ca = certificates.path("ca.pem").display().to_string();
        let good = [
            ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}")),
            ("localhost", format!("sslrootcert={ca}")),
            ("127.0.0.1", "sslmode=require".to_owned()),
            ("127.0.0.1", "sslmode=prefer".to_owned()),
        ];
        for (host, parameters) in good {
            let outcome = ask(host, parameters.clone()).await;
            assert!(matches!(outcome, Outcome::Done | Outcome::AlreadyApplied), "{kind:?} {parameters}: {outcome:?}");
        }
        let other = others.path("ca.pem").display().to_string();
        let outcome = ask("127.0.0.1", format!("sslmode=verify-full&sslrootcert={other}")).await;
        let (why, _) = failed(&outcome);
        assert!(why.contains("certificate"), "{kind:?}: {why}");
        let outcome = ask("127.0.0.1", "sslmode=verify-full&sslrootcert=/none/such.pem".to_owned()).await;
        assert!(failed(&outcome).0.contains("/none/such.pem"), "{kind:?}: {outcome:?}");
    }
    for db in servers() {
        let outcome = attempt(&format!("{}?sslmode=require", db.url()), "SELECT 1", "").outcome().await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{}: it speaks no TLS: {outcome:?}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_verify_full_looks_at_the_name() {
    let certificates = Certificates::make();
    certificates.issue("elsewhere", "subjectAltName=DNS:elsewhere.example\nextendedKeyUsage=serverAuth");
    let ca = certificates.path("ca.pem").display().to_string();
    for kind in [Kind::Postgres, Kind::Mariadb] {
        let server = Server::start_with(kind, |directory| encrypted(kind, directory, &certificates, "elsewhere"));
        let database = server.database();
        let ask = |mode: &str| {
            attempt(&format!("{}?sslmode={mode}&sslrootcert={ca}", database.url), "SELECT 1", "").outcome()
        };
        if kind == Kind::Postgres {
            assert_eq!(ask("verify-ca").await, Outcome::Done);
        }
        let outcome = ask("verify-full").await;
        assert!(failed(&outcome).0.contains("certificate"), "{kind:?}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_shown_to_a_server_that_asks_for_one() {
    let certificates = Certificates::make();
    certificates.issue("nightly", "extendedKeyUsage=clientAuth");
    let [ca, certificate, key] =
        ["ca.pem", "nightly.pem", "nightly.key"].map(|file| certificates.path(file).display().to_string());
    for kind in [Kind::Postgres, Kind::Mariadb] {
        let server = Server::start_with(kind, |directory| {
            let mut options = encrypted(kind, directory, &certificates, "server");
            std::fs::copy(&ca, directory.join("ca.pem")).unwrap();
            let ca = directory.join("ca.pem").display().to_string();
            if kind == Kind::Mariadb {
                options.push(format!("--ssl-ca={ca}"));
                return options;
            }
            let access = directory.join("access.conf");
            std::fs::write(&access, "hostssl all nightly all cert\nhost all all all scram-sha-256\n").unwrap();
            let settings = [format!("ssl_ca_file={ca}"), format!("hba_file={}", access.display())];
            options.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
            options
        });
        let database = server.database();
        let statements: &[&str] = match kind {
            Kind::Postgres => &["CREATE ROLE nightly LOGIN", "GRANT ALL ON SCHEMA public TO nightly"],
            Kind::Mariadb => &["CREATE USER 'nightly'@'%' REQUIRE X509", "GRANT ALL ON *.* TO 'nightly'@'%'"],
        };
        statements.iter().for_each(|statement| drop(server.ask(&database.name, statement)));
        let url = database.url.replace(&format!("fencron:{PASSWORD}"), "nightly");
        let ask = |more: String| attempt(&format!("{url}?sslrootcert={ca}{more}"), "SELECT 1", "").outcome();
        let outcome = ask(String::new()).await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{kind:?}: nothing was shown: {outcome:?}");
        let outcome = ask(format!("&sslcert={certificate}&sslkey={key}")).await;
        assert_eq!(outcome, Outcome::Done, "{kind:?}");
        let outcome = ask(format!("&sslcert={certificate}&sslkey=/none/such.key")).await;
        assert!(!matches!(outcome, Outcome::Done), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_url_asks_of_postgres_is_so() {
    let server = Server::shared(Kind::Postgres);
    let database = server.database();
    server.ask(&database.name, "CREATE TABLE seen (name text, path text)");
    let url = format!(
        "{}?application_name=nightly&options=-c%20search_path%3Dpg_temp%2Cpublic&target_session_attrs=read-write",
        database.url
    );
    let statement =
        "INSERT INTO public.seen SELECT current_setting('application_name'), current_setting('search_path')";
    assert_eq!(attempt(&url, statement, "").outcome().await, Outcome::Done);
    assert_eq!(server.ask(&database.name, "SELECT * FROM seen"), "nightly\tpg_temp,public");
    let refused = attempt(&url.replace("read-write", "read-only"), statement, "").outcome().await;
    assert!(matches!(refused, Outcome::Failed { .. }), "this one takes writes: {refused:?}");
}

/// The options with which a server shows its certificate.
fn encrypted(kind: Kind, directory: &Path, certificates: &Certificates, name: &str) -> Vec<String> {
    for file in ["pem", "key"] {
        let to = directory.join(format!("server.{file}"));
        std::fs::copy(certificates.path(&format!("{name}.{file}")), &to).unwrap();
        // PostgreSQL takes no key that others may read.
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let [certificate, key] = ["server.pem", "server.key"].map(|file| directory.join(file).display().to_string());
    match kind {
        Kind::Postgres => ["ssl=on".to_owned(), format!("ssl_cert_file={certificate}"), format!("ssl_key_file={key}")]
            .into_iter()
            .flat_map(|setting| ["-c".to_owned(), setting])
            .collect(),
        Kind::Mariadb => vec![format!("--ssl-cert={certificate}"), format!("--ssl-key={key}")],
    }
}
