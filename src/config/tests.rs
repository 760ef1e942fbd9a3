//! Tests of the whole way, from a command line to a configuration or a refusal.
