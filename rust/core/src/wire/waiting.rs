//! What services and broker tell each other of steps that wait.
//!
//! A service that cannot give a step what it asks for answers BLOCKED, with the section DATA:
//!
//! ```text
//! array of 4
//!   policy      int     what the service does about sagas that wait for each other: `WaitPolicy`
//!   mode        int     what is asked for: `HoldMode`
//!   resource    bin     its name
//!   holders     array   of up to 16: who stands in the way
//!     array of 3: saga (bin of 16, as in headers), attempt (int), place (int): the step that holds it, or claims it
//! ```
//! When the step is woken, its RUN has a section FREED with those of them that have ended, back to back:
//!
//! ```text
//! offset size field
//!      0   16 saga     as in headers
//!     16    4 attempt  this one and all before it: the service forgets what they hold
//! ```

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{HoldMode, SagaId, WaitPolicy};
use crate::limits::{HOLDERS_NAMED_MAX, RESOURCE_BYTES_MAX, STEPS_MAX};

/// The size of a saga's id.
pub const SAGA_ID_BYTES: usize = size_of::<SagaId>();

/// Who came first: the lower, the older. The same everywhere, whatever shards two sagas are of.
pub type Seniority = (u64, [u8; SAGA_ID_BYTES]);

/// Shards count for themselves, so two sagas may be of one age: then their ids decide, as bytes.
pub fn seniority(age: u64, saga: SagaId) -> Seniority {
    let mut id = [0; SAGA_ID_BYTES];
    id.copy_from_slice(saga.as_bytes());
    (age, id)
}

/// A step of an attempt: whoever holds something, or claims it. A claim that is granted keeps its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder {
    pub saga: SagaId,
    pub attempt: u32,
    pub place: u16,
}

/// The section DATA of a BLOCKED; see the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked<'a> {
    pub policy: WaitPolicy,
    pub mode: HoldMode,
    pub resource: &'a [u8],
    pub holders: Vec<Holder>,
}

impl<'a> Blocked<'a> {
    /// Reads it; none where it breaks the format, names nobody, or more than it may.
    pub fn read(data: &'a [u8]) -> Option<Self> {
        let mut rest = data;
        let parts = rmp::decode::read_array_len(&mut rest).ok()?;
        let policy = WaitPolicy::from_code(rmp::decode::read_int(&mut rest).ok()?)?;
        let mode = HoldMode::from_code(rmp::decode::read_int(&mut rest).ok()?)?;
        let resource = read_bin(&mut rest)?;
        let count = rmp::decode::read_array_len(&mut rest).ok()? as usize;
        let is_right = parts == 4 && (1..=HOLDERS_NAMED_MAX).contains(&count);
        if !is_right || !(1..=RESOURCE_BYTES_MAX).contains(&resource.len()) {
            return None;
        }
        let holders: Option<Vec<Holder>> = (0..count).map(|_| read_holder(&mut rest)).collect();
        rest.is_empty().then_some(Self { policy, mode, resource, holders: holders? })
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a vector cannot fail.
        let _ = rmp::encode::write_array_len(&mut out, 4);
        let _ = rmp::encode::write_uint(&mut out, u64::from(self.policy.code()));
        let _ = rmp::encode::write_uint(&mut out, u64::from(self.mode.code()));
        let _ = rmp::encode::write_bin(&mut out, self.resource);
        let _ = rmp::encode::write_array_len(&mut out, self.holders.len() as u32);
        for holder in &self.holders {
            let _ = rmp::encode::write_array_len(&mut out, 3);
            let _ = rmp::encode::write_bin(&mut out, holder.saga.as_bytes());
            let _ = rmp::encode::write_uint(&mut out, u64::from(holder.attempt));
            let _ = rmp::encode::write_uint(&mut out, u64::from(holder.place));
        }
        out
    }
}

pub(super) fn read_bin<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rmp::decode::read_bin_len(rest).ok()? as usize;
    let (value, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(value)
}

fn read_holder(rest: &mut &[u8]) -> Option<Holder> {
    (rmp::decode::read_array_len(rest).ok()? == 3).then_some(())?;
    let saga = SagaId::read_from_bytes(read_bin(rest)?).ok()?;
    let attempt = rmp::decode::read_int(rest).ok()?;
    let place: u16 = rmp::decode::read_int(rest).ok()?;
    (usize::from(place) < STEPS_MAX && saga.reserved.get() == 0).then_some(Holder { saga, attempt, place })
}

/// A saga that has ended, or begun again, so that what its attempts up to this one hold is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Freed {
    pub saga: SagaId,
    pub attempt: U32,
}

const _: () = assert!(size_of::<Freed>() == 20);

impl Freed {
    /// Reads a section FREED; nobody where it breaks the format, for whoever stands in the way is named again.
    pub fn read_all(section: &[u8]) -> &[Self] {
        <[Self]>::ref_from_bytes(section).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(sequence: u64) -> Holder {
        Holder { saga: SagaId::new(1, sequence, 7), attempt: 300, place: 63 }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_nothing_else_is() {
        let (policy, mode) = (WaitPolicy::WoundWait, HoldMode::Counted);
        let blocked = Blocked { policy, mode, resource: b"sku:42", holders: vec![holder(1), holder(1 << 60)] };
        let data = blocked.write();
        assert_eq!(Blocked::read(&data), Some(blocked.clone()));
        for end in 0..data.len() {
            assert_eq!(Blocked::read(&data[..end]), None);
        }
        assert_eq!(Blocked::read(&[&data[..], &[0]].concat()), None);
        let of = |holders| Blocked { holders, ..blocked.clone() }.write();
        assert_eq!(Blocked::read(&of(vec![])), None);
        assert_eq!(Blocked::read(&of(vec![holder(1); HOLDERS_NAMED_MAX + 1])), None);
        assert_eq!(Blocked::read(&of(vec![Holder { place: 64, ..holder(1) }])), None);
        let long = [b'x'; RESOURCE_BYTES_MAX + 1];
        assert_eq!(Blocked::read(&Blocked { resource: &long, ..blocked.clone() }.write()), None);
        let most = Blocked { resource: &long[1..], holders: vec![holder(1); HOLDERS_NAMED_MAX], ..blocked };
        assert!(most.write().len() <= crate::limits::BLOCKED_BYTES_MAX);
    }

    #[test]
    fn what_is_free_is_a_list_of_ids_and_attempts() {
        let freed = [Freed { saga: SagaId::new(0, 5, 1), attempt: 2.into() }; 3];
        assert_eq!(Freed::read_all(freed.as_bytes()), &freed);
        assert_eq!(Freed::read_all(&freed.as_bytes()[..41]), &[]);
    }
}
