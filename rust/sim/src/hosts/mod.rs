//! What surrounds each core: what the processes of a real deployment do, without sockets and files.

mod activity;
mod broker;
mod client;
mod holds;
mod peer;
mod service;
mod store;
mod waits;
mod watch;
mod work;

pub use broker::BrokerHost;
pub use client::ClientHost;
pub use peer::{Core, PeerHost, new_coordinator};
pub use service::{ServiceHost, late_call};
pub use store::Stores;
