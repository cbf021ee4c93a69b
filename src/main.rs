//! The moonrock command.
fn main() {}
