//! Processes: models run in a child within limits, and signals end both without leaving files behind.

pub mod guard;
pub mod interrupt;
