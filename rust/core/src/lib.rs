//! The saga protocol, without I/O: no clock, randomness, file or socket. Time and entropy are arguments,
//! bytes come in and go out. That is what lets the simulator and the sandbox run the very same code.

pub mod client;
pub mod coordinator;
pub mod fence;
pub mod limits;
pub mod mutation;
pub mod peer;
pub mod plan;
pub mod table;
pub mod watermark;
pub mod wire;
pub mod worker;
