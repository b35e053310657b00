//! etcd store (skeleton).
