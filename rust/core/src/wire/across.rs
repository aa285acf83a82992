//! What brokers tell each other of steps that wait across shards. A service's process, which has a session with each
//! broker, passes it on as it is.
//!
//! A PROBE asks whether somebody is still in the way of a step of another shard, and follows the path of those that
//! wait for each other. A WAKE says that somebody is not in the way any more. Neither is a token, numbered or logged,
//! and both may be lost: for as long as a step waits, its broker asks again. Of their headers:
//!
//! ```text
//! active     the shard that it is for
//! done       the shard that it is from
//! saga       PROBE: who is in the way of the last one of the path, or who is to give way
//! attempt    WAKE: who is out of the way
//! place      the step; 65535: all that the saga holds. A WAKE of it speaks of all earlier attempts too
//! amount     PROBE: the number of the chase, at the broker of the path's first saga
//! undo       PROBE: 0, or the wait that is to give way; then the path is a cycle
//! flags      PROBE: `WOUNDED` where who is younger is to give way at once
//! ```
//! The section DATA of a PROBE is the path, a MessagePack array of up to 32, each of which waits for the next:
//!
//! ```text
//! array of 7
//!   saga       bin    16 bytes, as in headers
//!   attempt    int
//!   wait       int    numbers this wait, at the saga's broker
//!   waited_ms  int    how long it waited when the probe passed it
//!   may_abort  bool   it may give way by an abort
//!   service    str    of the step that waits
//!   resource   bin    what it waits for
//! ```

use zerocopy::{FromBytes, IntoBytes};

use super::SagaId;
use super::waiting::read_bin;
use crate::limits::{NAME_BYTES_MAX, PROBE_PATH_MAX, RESOURCE_BYTES_MAX};

/// In place of a step: all that the saga holds.
pub const WHOLE_SAGA: u16 = u16::MAX;

/// A saga on the path of a PROBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeHop {
    pub saga: SagaId,
    pub attempt: u32,
    pub wait: u64,
    pub waited_ms: u64,
    pub may_abort: bool,
    pub service: String,
    pub resource: Box<[u8]>,
}

impl ProbeHop {
    /// Reads the path of a PROBE; none where it breaks the format, is empty, or too long.
    pub fn read_all(data: &[u8]) -> Option<Vec<Self>> {
        let mut rest = data;
        let count = rmp::decode::read_array_len(&mut rest).ok()? as usize;
        (1..=PROBE_PATH_MAX).contains(&count).then_some(())?;
        let path: Option<Vec<Self>> = (0..count).map(|_| Self::read(&mut rest)).collect();
        path.filter(|_| rest.is_empty())
    }

    fn read(rest: &mut &[u8]) -> Option<Self> {
        (rmp::decode::read_array_len(rest).ok()? == 7).then_some(())?;
        let saga = SagaId::read_from_bytes(read_bin(rest)?).ok()?;
        let attempt = rmp::decode::read_int(rest).ok()?;
        let wait = rmp::decode::read_int(rest).ok()?;
        let waited_ms = rmp::decode::read_int(rest).ok()?;
        let may_abort = rmp::decode::read_bool(rest).ok()?;
        let (service, after) = rmp::decode::read_str_from_slice(*rest).ok()?;
        *rest = after;
        let resource = read_bin(rest)?;
        let fits = service.len() <= NAME_BYTES_MAX && resource.len() <= RESOURCE_BYTES_MAX;
        (fits && saga.reserved.get() == 0).then(|| Self {
            saga,
            attempt,
            wait,
            waited_ms,
            may_abort,
            service: service.to_owned(),
            resource: resource.into(),
        })
    }

    pub fn write_all(path: &[Self]) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a vector cannot fail.
        let _ = rmp::encode::write_array_len(&mut out, path.len() as u32);
        for hop in path {
            let _ = rmp::encode::write_array_len(&mut out, 7);
            let _ = rmp::encode::write_bin(&mut out, hop.saga.as_bytes());
            let _ = rmp::encode::write_uint(&mut out, u64::from(hop.attempt));
            let _ = rmp::encode::write_uint(&mut out, hop.wait);
            let _ = rmp::encode::write_uint(&mut out, hop.waited_ms);
            let _ = rmp::encode::write_bool(&mut out, hop.may_abort);
            let _ = rmp::encode::write_str(&mut out, &hop.service);
            let _ = rmp::encode::write_bin(&mut out, &hop.resource);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SECTION_BYTES_MAX;

    fn hop(sequence: u64, service: usize, resource: usize) -> ProbeHop {
        ProbeHop {
            saga: SagaId::new(u16::MAX, sequence, u32::MAX),
            attempt: u32::MAX,
            wait: u64::MAX,
            waited_ms: u64::MAX,
            may_abort: true,
            service: "s".repeat(service),
            resource: vec![b'r'; resource].into(),
        }
    }

    #[test]
    fn a_path_is_read_as_it_was_written_and_nothing_else_is() {
        let path = vec![hop(1, 6, 6), ProbeHop { may_abort: false, attempt: 0, ..hop(1 << 60, 1, 0) }];
        let data = ProbeHop::write_all(&path);
        assert_eq!(ProbeHop::read_all(&data), Some(path));
        for end in 0..data.len() {
            assert_eq!(ProbeHop::read_all(&data[..end]), None);
        }
        assert_eq!(ProbeHop::read_all(&[&data[..], &[0]].concat()), None);
        assert_eq!(ProbeHop::read_all(&ProbeHop::write_all(&[])), None);
        let long = hop(1, NAME_BYTES_MAX, RESOURCE_BYTES_MAX);
        let most = ProbeHop::write_all(&vec![long.clone(); PROBE_PATH_MAX]);
        assert!(ProbeHop::read_all(&most).is_some() && most.len() <= SECTION_BYTES_MAX);
        assert_eq!(ProbeHop::read_all(&ProbeHop::write_all(&vec![long; PROBE_PATH_MAX + 1])), None);
        assert_eq!(ProbeHop::read_all(&ProbeHop::write_all(&[hop(1, NAME_BYTES_MAX + 1, 1)])), None);
        assert_eq!(ProbeHop::read_all(&ProbeHop::write_all(&[hop(1, 1, RESOURCE_BYTES_MAX + 1)])), None);
    }
}
