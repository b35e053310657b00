//! What an error of the driver says about the request: whether it was certainly not applied, and what to do.

use std::error::Error as _;

use tokio_postgres::Error;

use crate::store::StoreError;

/// The error of a request that was certainly not applied.
pub(super) fn not_applied(store: &str, error: &Error) -> StoreError {
    let unavailable = |why: String| StoreError::Unavailable { store: store.to_owned(), why };
    let denied = |why: String| StoreError::Denied { store: store.to_owned(), why };
    let Some(said) = error.as_db_error() else {
        let why = described(error);
        return if why.contains("password missing") || why.starts_with("authentication") {
            denied(format!("{why}: name user and password in the URL, or set FENCRON_POSTGRES_PASSWORD"))
        } else {
            unavailable(why)
        };
    };
    let (code, message) = (said.code().code(), said.message());
    match code {
        "55P03" => unavailable("another process holds its lock, and did not let go in 5 s".into()),
        "25006" => unavailable(format!("the server takes no writes ({message}): looking for the one that does")),
        "53100" => unavailable(format!("its disk is full: make room ({message})")),
        "25P03" => unavailable("this process took longer than a second between two steps of a write".into()),
        "23505" => unavailable(format!("two processes wrote at once ({message}): is there a proxy in between?")),
        "42501" => denied(format!(
            "{message}: let the owner of the tables run `fencron store init URL --grant ROLE` with this role"
        )),
        "3D000" => StoreError::Unusable(format!("{store}: {message}: create it with `createdb`, or name another")),
        "42P01" | "42703" | "42804" | "42883" | "3F000" => StoreError::Unusable(format!(
            "{store}: the tables of the schema `fencron` are not those that fencron made ({message}): were they altered \
             or dropped by hand? Restore them from a backup"
        )),
        _ => match &code[..2] {
            "28" => denied(message.to_owned()),
            "XX" => StoreError::Unusable(format!("{store} is damaged ({message}): restore it from a backup")),
            "22" | "23" | "42" | "0A" => StoreError::Unusable(format!("{store} cannot be used: {message} ({code})")),
            _ => unavailable(format!("{message} ({code})")),
        },
    }
}

/// The error of a request that may have been applied.
pub(super) fn unknown(store: &str, error: &Error) -> StoreError {
    StoreError::Unknown { store: store.to_owned(), why: described(error) }
}

/// Whether the server's answer to COMMIT says that nothing was committed: it rolled the transaction back for a conflict or
/// a constraint. It says so of a statement before COMMIT in any case.
pub(super) fn refuses_a_commit(error: &Error) -> bool {
    let code = error.code().map(|code| code.code());
    code.is_some_and(|code| code != "40003" && ["40", "23", "25"].contains(&&code[..2]))
}

/// Whether the transaction was not applied, for a statement before its COMMIT was answered with an error: a COMMIT behind
/// it rolls back.
pub(super) fn is_an_answer(error: &Error) -> bool {
    error.as_db_error().is_some()
}

fn described(error: &Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Whether another server, or other tables, have to be looked for: this one takes no writes, or is not what it was.
pub(super) fn is_elsewhere(error: &Error) -> bool {
    let code = error.code().map(|code| code.code());
    code.is_some_and(|code| ["25", "3F", "42", "55", "57"].contains(&&code[..2]))
}
