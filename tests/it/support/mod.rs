//! What several tests need.

pub(crate) mod docs;
pub(crate) mod fault;
