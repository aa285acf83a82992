//! A model of the saga protocol, small enough that everything that can happen is tried.
//!
//! It is written from the rules, not from the code: it shares nothing with the cores, so that what both say is said
//! twice. The simulator runs the cores and draws what happens; the model tries all of it, for small plans and one or
//! two sagas. Every configuration must hold, and every broken rule (`mutation`) must be caught by one of them: a rule
//! that can be broken unseen is not in the model.
//!
//! # What is abstracted
//!
//! - **Tokens are bits.** Within an attempt a token is its kind and step; its header follows from the plan
//!   (`state::sets_of`). What a forger would change in a header is a token of another name, another sender, or a step
//!   left out of the sets. Bodies do not exist.
//! - **Services are their fence and their effects.** A token that was delivered may be acted on at any time and again.
//!   So repeated deliveries, processes killed at any point, and zombies that wake after the saga has ended need no
//!   state.
//! - **Time does not exist.** A deadline, the delivery limit and a cancel may come at any moment at which they are
//!   allowed.
//! - **Nothing is counted.** Broker and coordinators may stop, and slots be spilled, as often as there are states to
//!   reach.
//! - **The log is two states of each saga**: with its unsynced tail, and as of the last sync. A stop of the broker goes
//!   back to the second. What was lost may have been seen, where relaxed visibility let it run ahead.
//! - **A coordinator is its slot for a saga.** The slot may outlive its session: then it is a transaction in flight, or
//!   a paused coordinator that still believes that the saga is its own.
//! - **One deadline class**, and a watermark that is told as the set of sagas below it.
//!
//! Not in the model: waiting and holds, the bounds of queues and tables, the bytes of the log, and time.
//!
//! # What is checked
//!
//! `property` lists it: invariants in every state, at every effect, at every compensation, and when a client is told.
//! At last, from every state that was reached, the end must be reachable without further faults.
//!
//! # Where things are
//!
//! `plan`, `state`, `action`: what there is. `broker`, `service`, `external`, `coordinator`, `client`, `operator`,
//! `forgery`: what each of them may do next; `model` puts them together. `property`, `mutation`, `configuration`: what
//! must hold, what may be broken, in which settings. `checker` searches, `trace` tells.

pub mod action;
mod broker;
pub mod checker;
mod client;
pub mod configuration;
mod coordinator;
mod external;
mod forgery;
pub mod model;
pub mod mutation;
mod operator;
pub mod plan;
pub mod property;
mod service;
pub mod state;
pub mod trace;
