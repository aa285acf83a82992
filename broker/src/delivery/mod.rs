//! Who is connected, and what is delivered to whom: sessions, queues, leases and delays. All of it is volatile: after a
//! restart every pending token is simply delivered again.

mod fifo;
mod queues;
mod recall;
mod sessions;
mod slices;
mod suspects;

pub use fifo::Fifo;
pub use queues::{Queues, Released, WithRun, answer};
pub use sessions::{Opening, Session, Sessions};
pub use slices::Slices;
