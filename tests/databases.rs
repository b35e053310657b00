//! The servers that other tests stand on: that they are there, each empty, and gone with the test.

mod support;

use support::databases::{Kind, Server};

#[test]
fn a_database_serves_and_survives_a_kill() {
    for kind in [Kind::Postgres, Kind::Mariadb] {
        let mut server = Server::start(kind);
        let database = server.database();
        server.ask(&database.name, "CREATE TABLE kept (n int)");
        server.ask(&database.name, "INSERT INTO kept VALUES (7)");
        server.restart();
        assert_eq!(server.ask(&database.name, "SELECT n FROM kept"), "7", "{kind:?}");
    }
}
