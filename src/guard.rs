//! The receiving end: what turns away the effects of a leader that has been replaced, and those that are repeated.

pub mod sql;
