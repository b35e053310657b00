//! How a PostgreSQL is reached: what of its certificate is checked, and passwords in files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fencron::store::StoreError;
use fencron::store::postgres::{PostgresConfig, PostgresStore};
use fencron::time::Clock;

use crate::fixture::put;
use crate::support::certificates::Certificates;
use crate::support::databases::{Database, Kind, PASSWORD, Server, USER};

async fn connect(url: &str) -> Result<PostgresStore, StoreError> {
    let config: PostgresConfig = url.parse().unwrap();
    PostgresStore::connect(config, Clock::system()).await
}

/// Why it cannot be connected to.
async fn refused(url: &str) -> String {
    match connect(url).await {
        Err(error) => error.to_string(),
        Ok(_) => panic!("not refused: {url}"),
    }
}

/// A server with the certificate of this name, and where it has that.
fn server_with(certificates: &Certificates, name: &str) -> (Server, PathBuf) {
    let mut place = PathBuf::new();
    let server = Server::start_with(Kind::Postgres, |directory| {
        directory.clone_into(&mut place);
        present(certificates, name, directory);
        let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
        let files = [format!("ssl_cert_file={}", certificate.display()), format!("ssl_key_file={}", key.display())];
        let settings = ["ssl=on".to_owned()].into_iter().chain(files);
        settings.flat_map(|setting| ["-c".to_owned(), setting]).collect()
    });
    (server, place)
}

/// Writes over the files that are there, which stay the server's.
fn present(certificates: &Certificates, name: &str, directory: &Path) {
    for kind in ["pem", "key"] {
        let file = directory.join(format!("server.{kind}"));
        fs::write(&file, fs::read(certificates.path(&format!("{name}.{kind}"))).unwrap()).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    }
}

fn with(database: &Database, mode: &str, roots: Option<&Path>) -> String {
    let roots = roots.map(|roots| format!("&sslrootcert={}", roots.display())).unwrap_or_default();
    format!("{}?sslmode={mode}{roots}", database.url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_the_server_is_checked_as_the_url_says() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    certificates.issue("elsewhere", "subjectAltName=DNS:db.internal\nextendedKeyUsage=serverAuth");
    let (ours, theirs) = (certificates.path("ca.pem"), others.path("ca.pem"));
    let started = tokio::task::spawn_blocking(move || {
        let (server, place) = server_with(&certificates, "server");
        let database = server.database();
        (server, place, database, certificates)
    });
    let (server, place, database, certificates) = started.await.unwrap();
    let store = connect(&with(&database, "verify-full", Some(&ours))).await.unwrap();
    put(&store, "a", "1").await;
    let encrypted = "SELECT count(*) > 0 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'fencron'";
    assert_eq!(server.ask("", encrypted), "t");
    for mode in ["verify-ca", "verify-full"] {
        let why = refused(&with(&database, mode, Some(&theirs))).await;
        assert!(why.contains("invalid peer certificate"), "{mode} with another authority: {why}");
    }
    // Its authority is right, its name is another one.
    present(&certificates, "elsewhere", &place);
    server.ask("", "SELECT pg_reload_conf()");
    let why = crate::support::until("the other certificate", || async {
        connect(&with(&database, "verify-full", Some(&ours))).await.err().map(|error| error.to_string())
    });
    let why = why.await;
    assert!(why.contains("NotValidForName") || why.contains("not valid for name"), "{why}");
    connect(&with(&database, "verify-ca", Some(&ours))).await.unwrap();
    connect(&with(&database, "require", None)).await.unwrap();
    let nowhere = refused(&with(&database, "verify-full", Some(Path::new("/no/such/ca.pem")))).await;
    assert!(nowhere.contains("/no/such/ca.pem"), "{nowhere}");
}

#[tokio::test]
async fn a_password_is_read_from_its_file_for_each_connection() {
    let database = tokio::task::spawn_blocking(|| Server::shared(Kind::Postgres).database()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pg pass");
    let named = file.display().to_string().replace(' ', "%20");
    let url = database.url.replace(&format!(":{PASSWORD}@"), "@") + &format!("?passfile={named}");
    let write = |password: &str, mode| {
        fs::write(&file, format!("127.0.0.1:*:{}:{USER}:{password}\n", database.name)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    };
    write("not this one", 0o600);
    assert!(matches!(connect(&url).await, Err(StoreError::Denied { .. })));
    write(PASSWORD, 0o644);
    let shared = refused(&url).await;
    assert!(shared.contains("chmod 600") && shared.contains("pg pass") && !shared.contains(PASSWORD), "{shared}");
    write(PASSWORD, 0o600);
    put(&connect(&url).await.unwrap(), "a", "1").await;
    fs::remove_file(&file).unwrap();
    assert!(refused(&url).await.contains("pg pass"));
}
