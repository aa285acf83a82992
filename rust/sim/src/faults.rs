//! Faults that strike from time to time: which one, whom, and how hard.

use crate::env::Env;
use crate::hosts::{Core, PeerHost};
use crate::lies::{answer_for, each_transaction, subscribes};
use crate::options::Fault;
use crate::schedule::Event;
use crate::world::World;

impl World {
    /// One of the seed's faults strikes, and the next is set.
    pub(crate) fn strike(&mut self) {
        if self.env.is_healed {
            return;
        }
        let Some(fault) = self.env.random.faults.pick(&self.env.options.faults.clone()) else { return };
        self.env.trace.mix(fault as u64);
        *self.faults.entry(fault).or_default() += 1;
        match fault {
            Fault::CrashBroker => self.crash_broker(),
            Fault::CrashCoordinator => self.crash_some(|core| matches!(core, Core::Coordinator(_))),
            Fault::CrashService => self.crash_some(|core| matches!(core, Core::Service(_))),
            Fault::CrashClient => self.crash_some(|core| matches!(core, Core::Client(_))),
            Fault::StopBroker => self.stop_broker(),
            Fault::FailSync => self.broker.log.disk.fail_next_sync(),
            Fault::FillDisk => self.fill_disk(),
            Fault::BreakFrame => self.break_frame(),
            Fault::PauseBroker => self.pause_broker(),
            Fault::PausePeer => self.pause_peer(),
            Fault::SlowPeer => {
                let process = self.some_peer();
                let until_us = self.env.now_us() + self.env.random.faults.magnitude(50_000, 10_000_000);
                self.peers[process - 1].seat.slow_until_us = until_us;
            }
            Fault::BreakConnection => {
                let process = self.some_peer();
                self.env.tell(|| format!("the connection of process {process} breaks"));
                let env = &mut self.env;
                env.network.break_connection(process, env.trace.now_us, &mut env.schedule);
            }
            Fault::CutPeer => {
                let process = self.some_peer();
                self.cut(process);
            }
            Fault::CutBroker => (1..=self.peers.len()).for_each(|process| self.cut(process)),
            Fault::StallDisk => {
                let until_us = self.env.now_us() + self.env.random.faults.magnitude(10_000, 5_000_000);
                self.broker.stalled_until_us = until_us;
            }
            Fault::ReplayFrame => self.replay_frame(),
            Fault::ForgeFrame => self.forge_frame(),
            Fault::AnswerForAnother => self.answer_for_another(),
            Fault::Cancel => self.let_some_client(PeerHost::cancel),
            Fault::Resolve => self.let_some_client(PeerHost::resolve),
            // The network does these by itself.
            Fault::LoseFrame | Fault::DuplicateFrame => {}
        }
        let every_us = self.env.options.fault_every_ms * 1_000;
        let delay_us = self.env.random.faults.tail(every_us);
        self.env.after(delay_us, Event::Fault);
    }

    fn some_peer(&mut self) -> usize {
        1 + self.env.random.faults.index(self.peers.len())
    }

    pub(crate) fn crash_broker(&mut self) {
        if self.broker.seat.is_alive {
            self.broker.crash(&mut self.env);
            let delay_us = self.env.random.faults.magnitude(1_000, 3_000_000);
            self.env.after(delay_us, Event::Restart { process: 0 });
        }
    }

    fn stop_broker(&mut self) {
        if self.broker.seat.is_alive {
            self.broker.stop(&mut self.env);
            let delay_us = self.env.random.faults.magnitude(1_000, 1_000_000);
            self.env.after(delay_us, Event::Restart { process: 0 });
        }
    }

    /// The disk has little room left, or all that one likes again.
    fn fill_disk(&mut self) {
        let random = &mut self.env.random.faults;
        let most_bytes = if random.chance(3_000) { 1 } else { 6 * self.env.options.segment_bytes };
        let room = (!random.chance(3_000)).then(|| random.below(most_bytes));
        self.broker.log.disk.set_room(room);
        self.env.tell(|| format!("the disk has {room:?} bytes left"));
    }

    /// Bytes that are no frame, or not all of one.
    fn break_frame(&mut self) {
        let process = self.some_peer();
        let Env { random, sent, .. } = &mut self.env;
        let random = &mut random.faults;
        if sent[process].is_empty() || !self.peers[process - 1].seat.is_alive {
            return;
        }
        let mut frame = sent[process][random.index(sent[process].len())].clone();
        if subscribes(&frame) {
            return;
        }
        each_transaction(&mut frame, |transaction| transaction[16..24].fill(0));
        if random.coin() {
            frame.truncate(random.index(frame.len()));
        } else {
            // Lengths, counts and versions: what the parser must not trust.
            let at = random.index(8);
            frame[at] ^= 1 << random.below(8);
        }
        if !frame.is_empty() {
            let env = &mut self.env;
            env.network.send_up(process, frame, env.trace.now_us, &mut env.schedule);
        }
    }

    fn crash_some(&mut self, is_it: impl Fn(&Core) -> bool) {
        let peers = self.peers.iter().filter(|peer| peer.seat.is_alive && is_it(&peer.core));
        let candidates: Vec<usize> = peers.map(|peer| peer.seat.process).collect();
        if let Some(process) = self.env.random.faults.pick(&candidates) {
            self.crash_peer(process);
        }
    }

    pub(crate) fn crash_peer(&mut self, process: usize) {
        self.peers[process - 1].crash(&mut self.env);
        let delay_us = self.env.random.faults.magnitude(1_000, 2_000_000);
        self.env.after(delay_us, Event::Restart { process });
    }

    fn pause_broker(&mut self) {
        let until_us = self.env.now_us() + self.env.random.faults.magnitude(10_000, 6_000_000);
        self.broker.seat.paused_until_us = until_us;
        self.env.tell(|| format!("broker is paused until {until_us} us"));
    }

    /// Services are what it matters for: their leases end, and somebody else does the same.
    fn pause_peer(&mut self) {
        let services = self.peers.iter().filter(|peer| matches!(peer.core, Core::Service(_)));
        let services: Vec<usize> = services.map(|peer| peer.seat.process).collect();
        let is_service = self.env.random.faults.coin();
        let process = if is_service { self.env.random.faults.pick(&services) } else { None };
        let process = process.unwrap_or_else(|| self.some_peer());
        let until_us = self.env.now_us() + self.pause_us();
        let seat = &mut self.peers[process - 1].seat;
        seat.paused_until_us = until_us;
        let name = &seat.name;
        self.env.trace.tell(|| format!("{name} is paused until {until_us} us"));
    }

    fn pause_us(&mut self) -> u64 {
        let pause_us = self.env.random.faults.magnitude(50_000, 20_000_000);
        // One is enough: all the others have to wait for it in the end.
        pause_us.max(std::mem::take(&mut self.env.options.long_pause_us))
    }

    fn cut(&mut self, process: usize) {
        let random = &mut self.env.random.faults;
        let ways = random.below(3);
        let until_us = self.env.trace.now_us + random.magnitude(50_000, 8_000_000);
        self.env.network.cut(process, ways != 1, ways != 2, until_us);
        self.env.tell(|| format!("process {process} is cut off until {until_us} us, ways {ways}"));
    }

    fn let_some_client(&mut self, act: impl Fn(&mut PeerHost, &mut Env)) {
        let is_client = |core: &Core| matches!(core, Core::Client(_));
        let peers = self.peers.iter().filter(|peer| peer.seat.is_alive && is_client(&peer.core));
        let clients: Vec<usize> = peers.map(|peer| peer.seat.process).collect();
        if let Some(process) = self.env.random.faults.pick(&clients) {
            act(&mut self.peers[process - 1], &mut self.env);
        }
    }

    /// A process says again what it said before, under no number.
    fn replay_frame(&mut self) {
        let process = self.some_peer();
        let count = self.env.sent[process].len();
        if count == 0 || !self.peers[process - 1].seat.is_alive {
            return;
        }
        let at = self.env.random.faults.index(count);
        let mut frame = self.env.sent[process][at].clone();
        each_transaction(&mut frame, |transaction| transaction[16..24].fill(0));
        if !subscribes(&frame) {
            self.env.tell(|| format!("process {process} says again what it said before"));
            let env = &mut self.env;
            env.network.send_up(process, frame, env.trace.now_us, &mut env.schedule);
        }
    }

    /// A process lies from now on: whatever it says next, it says something forged first.
    fn forge_frame(&mut self) {
        let process = self.some_peer();
        self.env.lies[process] = true;
    }

    /// A process says that a step is done which another service has, and which nobody has done.
    fn answer_for_another(&mut self) {
        let Env { checks, random, .. } = &mut self.env;
        let random = &mut random.faults;
        let Some((key, step)) = random.pick(&checks.history.asked_for()) else { return };
        let Some(found) = checks.history.saga(key) else { return };
        let model = &checks.models[found.plan];
        let service = model.definition.steps[step].service;
        let others = self.peers.iter().filter(|peer| peer.seat.is_alive && !peer.serves(service));
        let others: Vec<usize> = others.map(|peer| peer.seat.process).collect();
        let Some(process) = random.pick(&others) else { return };
        let frame = answer_for(model, key, step, &found.input);
        let env = &mut self.env;
        env.tell(|| format!("process {process} says that step {step} of {key:x?} is done"));
        env.network.send_up(process, frame, env.trace.now_us, &mut env.schedule);
    }
}
