//! Certificates for a test, made with the openssl command.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority of our own, with one certificate for servers on loopback and one for a client.
pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    pub fn make() -> Certificates {
        let made = Certificates { directory: tempfile::tempdir().unwrap() };
        made.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        made.issue("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth");
        made.issue("client", "extendedKeyUsage=clientAuth");
        made
    }

    /// Makes `NAME.pem` and `NAME.key`.
    pub fn issue(&self, name: &str, extensions: &str) {
        std::fs::write(self.path("extensions"), extensions).unwrap();
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        self.openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &request]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ]);
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.directory.path()).output();
        let output = output.expect("openssl is installed: tests/run installs what the tests need");
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `ca.pem`, `server.pem`, `server.key`, `client.pem` or `client.key`.
    pub fn path(&self, file: &str) -> PathBuf {
        Path::join(self.directory.path(), file)
    }
}
