//! Both libraries in one program.

use fencron::store::AnyStore;
use sqlx::SqlitePool;

/// What the service works with.
pub struct Service {
    pub orders: SqlitePool,
    pub locks: AnyStore,
}
