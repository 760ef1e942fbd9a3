//! sim.

pub mod storm;
