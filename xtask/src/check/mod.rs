//! The checks that need no kernel to run: style, lints, rooms, licences.

pub mod docs;
pub mod licences;
pub mod rooms;
pub mod style;
pub mod unit;
