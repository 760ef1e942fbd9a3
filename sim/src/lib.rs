//! The deterministic cluster: a seed in, a verdict out.

#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
mod intercept;
#[cfg(madsim)]
pub mod network;
pub mod rng;
#[cfg(madsim)]
pub mod runtime;
