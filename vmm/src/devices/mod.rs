//! Devices that are not virtio.

pub mod rtc;
pub mod serial;
