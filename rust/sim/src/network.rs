//! The network between the broker and its peers, with what ZeroMQ promises and no more.
//!
//! Within one connection frames arrive in order and none is missing. A connection breaks with what is in flight; the
//! socket then connects again by itself, under a new identity, and its peer is not told. What was not handed to the
//! network yet waits in the socket. A frame for an identity that is gone, or for one that reads nothing, is refused
//! to the broker; for a while it may also be swallowed.
//!
//! Beyond that promise, in some seeds, a connection breaks with any frame, and a frame may arrive twice.

use std::collections::VecDeque;

use sagacore_core::wire::{Kind, Transactions};

use crate::options::NetworkOptions;
use crate::random::Random;
use crate::schedule::{Event, Schedule};

#[derive(Debug, Default)]
struct Stream {
    frames: VecDeque<(u64, Vec<u8>)>,
    last_us: u64,
    is_open: bool,
}

#[derive(Debug)]
struct Connection {
    process: usize,
    up: Stream,
    down: Stream,
    /// From this time on the broker knows that the peer is gone.
    known_gone_us: u64,
}

#[derive(Debug, Default)]
struct Socket {
    generation: u32,
    connection: Option<u32>,
    /// Frames that wait for a connection.
    pipe: VecDeque<Vec<u8>>,
    cut_up_us: u64,
    cut_down_us: u64,
}

/// See the module's text. Process 0 is the broker.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    random: Random,
    connections: Vec<Connection>,
    sockets: Vec<Socket>,
    is_broker_up: bool,
    pub lost: u64,
    pub duplicated: u64,
}

/// What a connection is called at the broker.
pub fn identity(connection: u32) -> [u8; 5] {
    let [a, b, c, d] = connection.to_be_bytes();
    [0, a, b, c, d]
}

fn connection_of(identity: &[u8]) -> Option<usize> {
    let bytes: [u8; 5] = identity.try_into().ok()?;
    Some(u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize)
}

impl Network {
    pub fn new(options: NetworkOptions, processes: usize, random: Random) -> Self {
        let sockets = (0..processes).map(|_| Socket::default()).collect();
        Self { options, random, connections: Vec::new(), sockets, is_broker_up: false, lost: 0, duplicated: 0 }
    }

    /// The process at the other end of a connection.
    pub fn process_of(&self, identity: &[u8]) -> usize {
        connection_of(identity).and_then(|index| self.connections.get(index)).map_or(0, |found| found.process)
    }

    /// From now on only what is left of earlier faults disturbs.
    pub fn heal(&mut self, now_us: u64) {
        self.options.heal();
        for socket in &mut self.sockets {
            socket.cut_up_us = socket.cut_up_us.min(now_us);
            socket.cut_down_us = socket.cut_down_us.min(now_us);
        }
    }

    pub fn broker_is_up(&mut self) {
        self.is_broker_up = true;
    }

    /// The broker has crashed: all that was under way is lost.
    pub fn broker_is_down(&mut self, now_us: u64, schedule: &mut Schedule) {
        self.is_broker_up = false;
        for process in 1..self.sockets.len() {
            self.break_connection(process, now_us, schedule);
        }
        for connection in &mut self.connections {
            connection.up.is_open = false;
        }
    }

    /// A process opens a new socket. What its old one has sent may still arrive, or not.
    pub fn open_socket(&mut self, process: usize, now_us: u64, schedule: &mut Schedule) {
        self.close_socket(process, now_us);
        let delay_us = self.delay();
        let generation = self.sockets[process].generation;
        schedule.at(now_us + delay_us, Event::Connect { process, socket: generation });
    }

    /// A process is gone, or lets its socket go.
    pub fn close_socket(&mut self, process: usize, now_us: u64) {
        let lingers = self.random.coin();
        let known_gone_us = now_us + if self.random.coin() { 0 } else { self.random.tail(100_000) };
        let socket = &mut self.sockets[process];
        socket.generation += 1;
        socket.pipe.clear();
        if let Some(old) = socket.connection.take() {
            let old = &mut self.connections[old as usize];
            old.down.is_open = false;
            old.up.is_open = lingers;
            old.known_gone_us = known_gone_us;
        }
    }

    /// A socket tries to connect. Whether it has a connection now.
    pub fn connect(&mut self, process: usize, generation: u32, now_us: u64, schedule: &mut Schedule) -> bool {
        let socket = &mut self.sockets[process];
        if socket.generation != generation || socket.connection.is_some() {
            return false;
        }
        if !self.is_broker_up || socket.cut_up_us.max(socket.cut_down_us) > now_us {
            let again_us = now_us + 50_000 + self.random.tail(50_000);
            schedule.at(again_us, Event::Connect { process, socket: generation });
            return false;
        }
        let connection = self.connections.len() as u32;
        let open = || Stream { is_open: true, ..Stream::default() };
        self.connections.push(Connection { process, up: open(), down: open(), known_gone_us: u64::MAX });
        self.sockets[process].connection = Some(connection);
        for frame in std::mem::take(&mut self.sockets[process].pipe) {
            self.send_up(process, frame, now_us, schedule);
        }
        true
    }

    /// The connection of a process breaks. Its socket does not say so, and connects again.
    pub fn break_connection(&mut self, process: usize, now_us: u64, schedule: &mut Schedule) {
        let again_us = now_us + self.random.tail(50_000);
        let socket = &mut self.sockets[process];
        let Some(broken) = socket.connection.take() else { return };
        schedule.at(again_us, Event::Connect { process, socket: socket.generation });
        let broken = &mut self.connections[broken as usize];
        (broken.up.is_open, broken.down.is_open) = (false, false);
        broken.up.frames.clear();
        broken.down.frames.clear();
        broken.known_gone_us = now_us + if self.random.coin() { 0 } else { self.random.tail(100_000) };
    }

    /// Nothing passes between a process and the broker for a while, one way or both.
    pub fn cut(&mut self, process: usize, up: bool, down: bool, until_us: u64) {
        let socket = &mut self.sockets[process];
        if up {
            socket.cut_up_us = socket.cut_up_us.max(until_us);
        }
        if down {
            socket.cut_down_us = socket.cut_down_us.max(until_us);
        }
    }

    pub fn send_up(&mut self, process: usize, frame: Vec<u8>, now_us: u64, schedule: &mut Schedule) {
        let delay_us = self.delay();
        let socket = &mut self.sockets[process];
        let Some(connection) = socket.connection else {
            socket.pipe.push_back(frame);
            return;
        };
        if self.loses(process, now_us, schedule) {
            return;
        }
        let copies = self.copies(&frame);
        let stream = &mut self.connections[connection as usize].up;
        let event = Event::Network { connection, is_up: true };
        push(stream, frame, copies, now_us + delay_us, event, schedule);
    }

    /// A frame of the broker. False: the identity is gone, or takes nothing.
    pub fn send_down(&mut self, identity: &[u8], frame: Vec<u8>, now_us: u64, schedule: &mut Schedule) -> bool {
        let delay_us = self.delay();
        let Some(index) = connection_of(identity).filter(|&index| index < self.connections.len()) else { return false };
        let connection = &mut self.connections[index];
        if !connection.down.is_open {
            return now_us < connection.known_gone_us;
        }
        if connection.down.frames.len() >= self.options.queued_frames_max {
            return false;
        }
        let process = connection.process;
        if self.loses(process, now_us, schedule) {
            return true;
        }
        let copies = self.copies(&frame);
        let event = Event::Network { connection: index as u32, is_up: false };
        push(&mut self.connections[index].down, frame, copies, now_us + delay_us, event, schedule);
        true
    }

    /// Whether a frame is lost, and its connection with it.
    fn loses(&mut self, process: usize, now_us: u64, schedule: &mut Schedule) -> bool {
        let loses = self.options.loss > 0 && self.random.chance(self.options.loss);
        if loses {
            self.lost += 1;
            self.break_connection(process, now_us, schedule);
        }
        loses
    }

    /// How often a frame arrives. What begins a session arrives once, as every frame of a connection really does: each
    /// SUBSCRIBE is one session, which both ends count.
    fn copies(&mut self, frame: &[u8]) -> u64 {
        let is_twice = self.options.duplication > 0 && self.random.chance(self.options.duplication);
        let is_twice = is_twice && !begins_session(frame);
        self.duplicated += u64::from(is_twice);
        1 + u64::from(is_twice)
    }

    /// The frames of a direction that have arrived, and the process that they come from or go to.
    pub fn arrived(
        &mut self,
        connection: u32,
        is_up: bool,
        now_us: u64,
        schedule: &mut Schedule,
    ) -> (usize, Vec<Vec<u8>>) {
        let found = &mut self.connections[connection as usize];
        let process = found.process;
        let socket = &self.sockets[process];
        let cut_us = if is_up { socket.cut_up_us } else { socket.cut_down_us };
        let stream = if is_up { &mut found.up } else { &mut found.down };
        let mut frames = Vec::new();
        if !stream.is_open {
            stream.frames.clear();
            return (process, frames);
        }
        while let Some((at_us, _)) = stream.frames.front() {
            let due_us = (*at_us).max(cut_us);
            if due_us > now_us {
                schedule.at(due_us, Event::Network { connection, is_up });
                break;
            }
            frames.extend(stream.frames.pop_front().map(|(_, frame)| frame));
        }
        (process, frames)
    }

    fn delay(&mut self) -> u64 {
        let NetworkOptions { delay_first_us, delay_half_us, .. } = self.options;
        delay_first_us + self.random.tail(delay_half_us)
    }
}

/// Appends a frame so many times, never before the one that was sent before it.
fn push(stream: &mut Stream, frame: Vec<u8>, copies: u64, at_us: u64, event: Event, schedule: &mut Schedule) {
    let at_us = at_us.max(stream.last_us);
    stream.last_us = at_us;
    if stream.frames.is_empty() {
        schedule.at(at_us, event);
    }
    for _ in 1..copies {
        stream.frames.push_back((at_us, frame.clone()));
    }
    stream.frames.push_back((at_us, frame));
}

fn begins_session(frame: &[u8]) -> bool {
    let mut messages = Transactions::parse(frame).into_iter().flatten().flatten().flat_map(|found| found.messages());
    messages.next().is_some_and(|first| first.header.kind() == Kind::Subscribe)
}
