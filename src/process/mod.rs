//! Processes: models run in a child within limits, and signals end both without leaving files behind.

pub mod exit;
pub mod guard;
pub mod interrupt;

/// Counts what is allocated, and refuses what is beyond a limit once there is one: see [`guard`].
#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);
