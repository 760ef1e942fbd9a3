//! The wire itself: bytes worked out by hand from the encoding rules, and the services' paths.

mod services;
mod wire;
