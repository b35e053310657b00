//! (skeleton)
#[derive(Debug, Clone)]
pub struct AnyStore;
#[derive(Debug, Clone)]
pub struct StoreUrl;
