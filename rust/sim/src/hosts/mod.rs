//! What surrounds each core: what the processes of a real deployment do, without sockets and files.

mod activity;
mod broker;
mod client;
mod peer;
mod service;
mod store;
mod work;

pub use broker::BrokerHost;
pub use peer::{Core, PeerHost};
pub use store::{Service, StepPlace, Stores};
