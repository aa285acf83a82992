//! The table by itself, a batch of headers at a call: for tools, benches and Python, which pay for every call.
//!
//! Headers stand back to back, 128 bytes each, as on the wire; plans play no role. Where the coordinator sends a
//! SPILL, a batch gives out the keys that it would name, under a number that `answered` or `refused` takes back.

use zerocopy::{FromBytes, IntoBytes};

use super::{Identity, Slot, Table};
use crate::wire::{HEADER_BYTES, Header, Malformed};

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Arrived {
    /// It is the first of its slot.
    Inserted = 0,
    /// It was added to its slot.
    Added = 1,
    /// It had arrived before.
    Known = 2,
    /// All slots of its set are dirty or pinned: it is to be given back.
    NoRoom = 3,
    /// It is neither DONE nor UNDONE.
    Foreign = 4,
}

/// A slot that is pinned until its SPILL is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpilledSlot {
    pub number: u64,
    /// The keys of its arrivals, 24 bytes each, as on the wire.
    pub keys: Vec<u8>,
}

/// What became of a batch of arrivals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The code of `Arrived` for each.
    pub codes: Vec<u8>,
    pub spilled: Vec<SpilledSlot>,
}

impl Table {
    /// Takes up these arrivals, one after the other, and spills dirty slots where sets get crowded.
    ///
    /// # Errors
    /// The rule of the format that a header breaks; the table is unchanged.
    pub fn arrive_batch(&mut self, headers: &[u8]) -> Result<Batch, Malformed> {
        let mut batch = Batch::default();
        for header in read(headers)? {
            let code = self.arrive(header, &mut batch.spilled);
            batch.codes.push(code as u8);
        }
        Ok(batch)
    }

    /// The slots that these arrivals belong to, 64 bytes each as drawn, all zero where there is none.
    ///
    /// # Errors
    /// The rule of the format that a header breaks.
    pub fn lookup_batch(&mut self, headers: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut slots = Vec::new();
        for header in read(headers)? {
            let at = Identity::of(header).and_then(|identity| self.find(&identity));
            slots.extend_from_slice(at.map_or(&Slot::FREE, |at| self.slot(at)).as_bytes());
        }
        Ok(slots)
    }

    /// Removes the slots that these arrivals belong to; for each 1, or 0 where there is none.
    ///
    /// # Errors
    /// The rule of the format that a header breaks; the table is unchanged.
    pub fn remove_batch(&mut self, headers: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut codes = Vec::new();
        for header in read(headers)? {
            let at = Identity::of(header).and_then(|identity| self.find(&identity));
            codes.push(at.is_some().into());
            at.map(|at| self.remove(at));
        }
        Ok(codes)
    }

    fn arrive(&mut self, header: &Header, spilled: &mut Vec<SpilledSlot>) -> Arrived {
        let Some(mut slot) = Slot::of_arrival(header, 0) else { return Arrived::Foreign };
        let identity = slot.identity();
        let code = match self.find(&identity) {
            Some(at) => {
                let held = *self.slot(at);
                let code = if held.arrived & slot.arrived == 0 { Arrived::Added } else { Arrived::Known };
                slot.merge(&held);
                self.update(at, slot);
                code
            }
            None if self.insert(slot).is_some() => Arrived::Inserted,
            None => return Arrived::NoRoom,
        };
        while let Some(at) = self.crowded(&identity) {
            spilled.push(self.spill(at));
        }
        code
    }

    fn spill(&mut self, at: super::Position) -> SpilledSlot {
        let number = self.spills.last_number() + 1;
        let keys = self.slot(at).keys().flat_map(|key| key.as_bytes().to_vec()).collect();
        self.pin(at, number);
        SpilledSlot { number, keys }
    }
}

fn read(headers: &[u8]) -> Result<&[Header], Malformed> {
    if !headers.len().is_multiple_of(HEADER_BYTES) {
        return Err(Malformed::MessageTruncated);
    }
    let headers = <[Header]>::ref_from_bytes(headers).map_err(|_| Malformed::MessageTruncated)?;
    headers.iter().try_for_each(Header::check)?;
    Ok(headers)
}
