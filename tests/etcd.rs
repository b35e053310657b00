//! etcd's own faults: what the store makes of them, against real servers.
fn main_placeholder() {}
