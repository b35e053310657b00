//! memory store (skeleton).
