//! A file of SQLite: how it is created, recognised and opened, and what its errors mean. The one way in which a database
//! of fencron's own is opened, a store's and a guard's.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::store::StoreError;

/// What a file is to hold.
pub(crate) struct Kind {
    /// In the file's header: it distinguishes our files from those of other applications.
    pub application_id: i32,
    /// The version of the tables, in the file's header. A file with a greater one was written by a newer fencron.
    pub schema_version: i32,
    pub schema: &'static str,
    /// Whether the directory is made as well; otherwise a path that was mistyped is an error.
    pub with_directory: bool,
}

/// How long a connection pauses before it tries again for a lock that another one holds. SQLite's own handler backs
/// off to 100 ms, and starves writers for seconds where several processes write.
const BUSY_PAUSE: Duration = Duration::from_micros(300);

/// How often it tries: 5 seconds of pauses.
const BUSY_TRIES: i32 = 16_667;

/// How often opening is tried while others are at it: 5 seconds of pauses. SQLite says "busy" to some of what opening
/// does without asking the busy handler, so opening has none and starts over.
const OPEN_TRIES: u32 = 1000;

/// How long a try at opening waits for the next.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// How many prepared statements a connection keeps: more than there are.
const STATEMENTS: usize = 64;

/// The largest WAL file that is left on disk after a checkpoint.
const WAL_KEPT: u32 = 16 << 20;

/// One opening at a time in a process: closing any descriptor of a file drops all of the process's POSIX locks on it,
/// and creating the file with its mode opens and closes one. Holds device and inode of all that were opened, and where
/// each was.
static OPENED: Mutex<BTreeMap<(u64, u64), PathBuf>> = Mutex::new(BTreeMap::new());

fn opened() -> MutexGuard<'static, BTreeMap<(u64, u64), PathBuf>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process has opened the file as a database. Nothing else may open it then, to read it for example: see
/// [`OPENED`].
#[cfg(feature = "cli")]
pub(crate) fn is_opened_here(path: &Path) -> bool {
    let Ok(found) = identity(path) else { return false };
    // Once the database is gone from its place, another file may have got its inode.
    opened().get(&found).is_some_and(|database| identity(database).is_ok_and(|there| there == found))
}

/// A file that was opened as a database. Every part of this project that has a database of its own opens it so.
#[derive(Clone, Debug)]
pub(crate) struct File {
    path: PathBuf,
    /// Device and inode: a file that is deleted or replaced while it is in use would let two nodes lead.
    identity: (u64, u64),
}

impl File {
    /// Opens the file, creates it where it is not there, and makes its tables. `begin` is done in the same transaction,
    /// and receives whether the tables were there before.
    pub(crate) fn open(
        path: &Path,
        kind: &Kind,
        begin: impl Fn(&Connection, bool) -> rusqlite::Result<()>,
    ) -> Result<(File, Connection), StoreError> {
        let mut opened = opened();
        create(path, kind.with_directory).map_err(|error| denied(path, &format!("it cannot be created: {error}")))?;
        refuse_network(path)?;
        refuse_other_names(path)?;
        let mut tries = 0;
        let connection = loop {
            match prepare(path, kind, &begin) {
                Err(Failure::Sqlite(error)) if is_busy(&error) && tries < OPEN_TRIES => tries += 1,
                Err(failure) => return Err(failure.at(path)),
                Ok(connection) => break connection,
            }
            thread::sleep(OPEN_PAUSE);
        };
        let identity = identity(path).map_err(|error| denied(path, &error.to_string()))?;
        // The same file under its own name, wherever the process goes.
        let path = fs::canonicalize(path).map_err(|error| denied(path, &error.to_string()))?;
        opened.insert(identity, path.clone());
        Ok((File { path, identity }, connection))
    }

    /// Opens a file that is there, which may be another application's, and changes nothing in it: not the way in which it
    /// is written, nor its tables. [`Kind::is_in`] says whether it holds tables of fencron's.
    #[cfg(feature = "guard")]
    pub(crate) fn open_existing(path: &Path) -> Result<(File, Connection), StoreError> {
        let mut opened = opened();
        let not_there = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                StoreError::Unavailable { store: store(path), why: "there is no such file".to_owned() }
            }
            _ => denied(path, &error.to_string()),
        };
        let identity = identity(path).map_err(not_there)?;
        refuse_network(path)?;
        let connection = connect(path).and_then(wait_when_busy).map_err(|error| explain(path, &error))?;
        let path = fs::canonicalize(path).map_err(not_there)?;
        opened.insert(identity, path.clone());
        Ok((File { path, identity }, connection))
    }

    /// Another connection to it.
    pub(crate) fn connect(&self) -> Result<Connection, StoreError> {
        let _opening = opened();
        self.check_in_place()?;
        connect(&self.path).and_then(wait_when_busy).map_err(|error| self.explain(&error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses where the path no longer leads to the file that was opened: no process that opens the path would see
    /// what is written to it now.
    pub(crate) fn check_in_place(&self) -> Result<(), StoreError> {
        match identity(&self.path) {
            Ok(found) if found == self.identity => Ok(()),
            _ => Err(StoreError::Unusable(format!(
                "{} was deleted, moved or replaced while it was in use: stop every fencron that uses it, put the \
                 right file in place, and start them again",
                self.path.display()
            ))),
        }
    }

    /// Bytes on disk, the write-ahead log included.
    pub(crate) fn size(&self) -> Option<u64> {
        let size = fs::metadata(&self.path).ok()?.len();
        Some(size + fs::metadata(self.log()).map_or(0, |log| log.len()))
    }

    /// Where its write-ahead log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.beside("-wal")
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(end);
        name.into()
    }

    /// It, and the files that SQLite keeps beside it.
    #[cfg(feature = "cli")]
    pub(crate) fn all(&self) -> [PathBuf; 3] {
        [self.path.clone(), self.log(), self.beside("-shm")]
    }

    /// What an operator ought to know of where the file lies.
    pub(crate) fn warnings(&self) -> Vec<String> {
        match filesystem(&self.path) {
            Some((name, Reach::Unclear)) => vec![format!(
                "{} is on a {name} filesystem: make sure that only this machine uses it, or use etcd",
                self.path.display()
            )],
            _ => Vec::new(),
        }
    }

    /// The error as a person can act on it. For a request whose commit was not begun, or is certain to have failed.
    pub(crate) fn explain(&self, error: &rusqlite::Error) -> StoreError {
        explain(&self.path, error)
    }

    /// What to answer where the commit itself failed: the log may have been written before the disk said no, and only
    /// a full disk is certain not to have taken it (the frame that makes a commit is the last that is written).
    pub(crate) fn explain_commit(&self, error: &rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => self.explain(error),
            _ => StoreError::Unknown { store: store(&self.path), why: error.to_string() },
        }
    }

    pub(crate) fn unavailable(&self, why: &str) -> StoreError {
        StoreError::Unavailable { store: store(&self.path), why: why.to_owned() }
    }

    pub(crate) fn unknown(&self, why: &str) -> StoreError {
        StoreError::Unknown { store: store(&self.path), why: why.to_owned() }
    }
}

/// Why something could not be done to the contents.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The answer to this request: nothing was changed by it, others go on.
    Answer(StoreError),
    /// SQLite failed: nothing of the transaction stands.
    Sqlite(rusqlite::Error),
}

impl Failure {
    fn at(self, path: &Path) -> StoreError {
        match self {
            Failure::Answer(error) => error,
            Failure::Sqlite(error) => explain(path, &error),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Answer(error)
    }
}

fn create(path: &Path, with_directory: bool) -> io::Result<()> {
    let directory = path.parent().filter(|directory| with_directory && !directory.as_os_str().is_empty());
    if let Some(directory) = directory {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether this process may write the file. SQLite would ask by opening it, and fall back to reading.
fn is_writable(path: &Path) -> bool {
    faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok()
}

/// SQLite keeps its write-ahead log beside the name by which a file was opened: programs that open one file by two names
/// do not see what each other writes. <https://sqlite.org/howtocorrupt.html>, 2.5
fn refuse_other_names(path: &Path) -> Result<(), StoreError> {
    let found = fs::metadata(path).map_err(|error| denied(path, &error.to_string()))?;
    let names = found.nlink();
    if found.is_file() && names > 1 {
        let why = format!(
            "the file has {names} names (hard links), and programs that open it by different names would not see what each \
             other writes: remove the other names, or use a copy"
        );
        return Err(StoreError::Unusable(format!("{}: {why}", store(path))));
    }
    Ok(())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A connection that gives up at once where it finds a lock taken.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA journal_size_limit = {WAL_KEPT}; PRAGMA trusted_schema = OFF;"
    ))?;
    Ok(connection)
}

/// The connection, which from now on waits where it finds a lock taken.
fn wait_when_busy(mut connection: Connection) -> rusqlite::Result<Connection> {
    // Older versions of rusqlite take a shared reference here.
    let waiting = &mut connection;
    waiting.busy_handler(Some(|tries| {
        thread::sleep(BUSY_PAUSE);
        tries < BUSY_TRIES
    }))?;
    Ok(connection)
}

/// A connection to a file that is ours, with its tables made.
fn prepare(
    path: &Path,
    kind: &Kind,
    begin: &impl Fn(&Connection, bool) -> rusqlite::Result<()>,
) -> Result<Connection, Failure> {
    let connection = connect(path)?;
    // Before anything is changed in a file that may belong to another application. In one transaction: another process
    // may be making the tables right now, and half of what it made would look like a stranger's.
    connection.execute_batch("BEGIN")?;
    let recognised = recognise(path, kind, &connection);
    connection.execute_batch("ROLLBACK")?;
    recognised?;
    if !is_writable(path) {
        return Err(denied(path, "it is read-only for this user: check its owner and mode").into());
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let why = format!("{} is on a filesystem that cannot share memory: use a local disk", path.display());
        return Err(StoreError::Unusable(why).into());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let made = recognise(path, kind, &connection).and_then(|ours| Ok(make(&connection, kind, ours, begin)?));
    match made {
        Ok(()) => connection.execute_batch("COMMIT")?,
        Err(failure) => {
            connection.execute_batch("ROLLBACK")?;
            return Err(failure);
        }
    }
    Ok(wait_when_busy(connection)?)
}

/// What a file holds.
enum Contents {
    Nothing,
    /// Tables of the kind that was asked about.
    Ours,
    /// Tables of that kind, of a version that this program does not know.
    Newer(i32),
    Others,
}

impl Kind {
    /// Whether an open file holds tables of this kind. A file of another application does not, even if its tables have
    /// the same names.
    ///
    /// # Errors
    ///
    /// The tables are those of a newer version; or the file cannot be read.
    #[cfg(feature = "guard")]
    pub(crate) fn is_in(&self, file: &File, connection: &Connection) -> Result<bool, StoreError> {
        match self.contents(connection).map_err(|error| file.explain(&error))? {
            Contents::Nothing | Contents::Others => Ok(false),
            Contents::Ours => Ok(true),
            Contents::Newer(version) => Err(self.newer(&file.path, version)),
        }
    }

    fn contents(&self, connection: &Connection) -> rusqlite::Result<Contents> {
        let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
        let (application, version) = (pragma("application_id")?, pragma("user_version")?);
        let things: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok(if application == 0 && version == 0 && things == 0 {
            Contents::Nothing
        } else if application != self.application_id {
            Contents::Others
        } else if version > self.schema_version {
            Contents::Newer(version)
        } else {
            Contents::Ours
        })
    }

    fn newer(&self, path: &Path, version: i32) -> StoreError {
        StoreError::Unusable(format!(
            "{} was written by a newer fencron (tables of version {version}; this one knows {}): run that version, or \
             name another file",
            path.display(),
            self.schema_version
        ))
    }
}

/// Whether the file has our tables; `false`: it is empty. Anything else is not ours to touch.
fn recognise(path: &Path, kind: &Kind, connection: &Connection) -> Result<bool, Failure> {
    match kind.contents(connection)? {
        Contents::Nothing => Ok(false),
        Contents::Ours => Ok(true),
        Contents::Newer(version) => Err(kind.newer(path, version).into()),
        Contents::Others => {
            let path = path.display();
            Err(StoreError::Unusable(format!("{path} is a database of another application: name another file")).into())
        }
    }
}

/// Makes the tables where there are none.
fn make(
    connection: &Connection,
    kind: &Kind,
    ours: bool,
    begin: &impl Fn(&Connection, bool) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    if !ours {
        connection.execute_batch(kind.schema)?;
        let (application, version) = (kind.application_id, kind.schema_version);
        connection
            .execute_batch(&format!("PRAGMA application_id = {application}; PRAGMA user_version = {version};"))?;
    }
    begin(connection, ours)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn store(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

fn denied(path: &Path, why: &str) -> StoreError {
    StoreError::Denied { store: store(path), why: why.to_owned() }
}

fn explain(path: &Path, error: &rusqlite::Error) -> StoreError {
    let unavailable = |why: String| StoreError::Unavailable { store: store(path), why };
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            unavailable("another process holds its lock, and did not let go in 5 s".into())
        }
        // Others are recovering the write-ahead log, or begin and end all the time.
        Some(ErrorCode::FileLockingProtocolFailed) => unavailable("others kept it from being read".into()),
        Some(ErrorCode::OutOfMemory) => unavailable("there is no memory for it".into()),
        Some(ErrorCode::DiskFull) => unavailable("its disk is full: make room".into()),
        Some(ErrorCode::SystemIoFailure) => unavailable(format!("the disk failed: {error}")),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            denied(path, &format!("this user cannot write the file or its directory ({error}): check owner and mode"))
        }
        Some(ErrorCode::NotADatabase) => StoreError::Unusable(format!(
            "{} is not a SQLite database, or is encrypted: name another file",
            path.display()
        )),
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Unusable(format!(
            "{} is damaged ({error}): stop every fencron that uses it and restore it from a backup",
            path.display()
        )),
        _ => StoreError::Unusable(format!("{} cannot be used: {error}", path.display())),
    }
}

/// Whether other machines can reach a filesystem.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It is made for that: locks and shared memory do not hold there.
    Network,
    /// It may be: only the operator knows.
    Unclear,
}

/// The filesystem the file lies on, where it is one to worry about.
#[cfg(target_os = "linux")]
fn filesystem(path: &Path) -> Option<(&'static str, Reach)> {
    /// The magic numbers of statfs(2), in their low 32 bits.
    const KNOWN: [(u32, &str, Reach); 10] = [
        (0x0000_6969, "NFS", Reach::Network),
        (0x0000_517b, "SMB", Reach::Network),
        (0xff53_4d42, "CIFS", Reach::Network),
        (0xfe53_4d42, "SMB2", Reach::Network),
        (0x5346_414f, "AFS", Reach::Network),
        (0x7375_7245, "Coda", Reach::Network),
        (0x0000_564c, "NCP", Reach::Network),
        (0x00c3_6400, "Ceph", Reach::Network),
        (0x0102_1997, "9p", Reach::Unclear),
        (0x6573_5546, "FUSE", Reach::Unclear),
    ];
    let magic = nix::sys::statfs::statfs(path).ok()?.filesystem_type().0 as u32;
    KNOWN.iter().find(|known| known.0 == magic).map(|(_, name, reach)| (*name, *reach))
}

#[cfg(not(target_os = "linux"))]
fn filesystem(_path: &Path) -> Option<(&'static str, Reach)> {
    None
}

fn refuse_network(path: &Path) -> Result<(), StoreError> {
    match filesystem(path) {
        Some((name, Reach::Network)) => Err(StoreError::Unusable(format!(
            "{} is on a {name} filesystem, on which SQLite's locks do not hold: use a local disk, or etcd where \
             several machines are to share the store",
            path.display()
        ))),
        _ => Ok(()),
    }
}
