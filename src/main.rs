//! The `refreshd` program.

fn main() {}
