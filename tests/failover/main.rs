//! A store in PostgreSQL whose primary is lost, or is not what it was: real servers, a standby that takes over with or
//! without the last commits, an old primary that wakes up again, a server clock that is set, a backup that is restored.

mod lossy;
mod old;
mod pair;
#[path = "../support/mod.rs"]
mod support;
mod synchronous;
