//! What several tests need.

pub(crate) mod cli;
pub(crate) mod disk;
pub(crate) mod docs;
pub(crate) mod fault;
pub(crate) mod model;
pub(crate) mod repos;
pub(crate) mod sweep;
