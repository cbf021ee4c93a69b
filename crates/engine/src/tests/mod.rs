//! Tests of the block pool, of the scheduler alone (a seeded simulation) and of the whole engine,
//! over a fake device.

mod block_pool;
mod fake_device;
mod simulation;
mod threads;
