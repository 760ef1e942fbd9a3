//! checker.
pub mod blob;
mod compare;
mod explain;
pub mod generate;
pub mod history;
mod lease;
mod linear;
pub mod model;
pub mod op;
mod ops;
pub mod registers;
pub mod serial;
pub mod timeline;
pub mod verdict;
mod watch;
pub mod wgl;
#[cfg(test)]
mod generate_tests;
