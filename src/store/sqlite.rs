//! sqlite store (skeleton).
