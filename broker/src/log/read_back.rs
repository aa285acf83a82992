//! Frames of copies are read again while the log is written: what a saga that only waits carries stays there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Position;
use super::disk::Disk;
use super::error::{During, LogError};
use super::frame::{self, FRAME_HEADER_BYTES, Fault, FrameType};
use super::segment::{SegmentHeader, segment_name};

/// Gives back what a record of copies says.
pub trait ReadBack: Send {
    /// Puts the payload of the record into `payload`. The record is durable, and was not released.
    ///
    /// # Errors
    /// `LogError::ReadBack` where something else stands in its place: then the log is damaged. `LogError::Disk`.
    fn read(&mut self, lsn: u64, payload: &mut Vec<u8>) -> Result<(), LogError>;
}

/// Where a frame of copies lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    lsn: u64,
    position: Position,
    bytes: u32,
}

/// Where the frames of copies lie, oldest first: whoever writes or recovers the log notes it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CopyPlaces(Arc<Mutex<VecDeque<Place>>>);

impl CopyPlaces {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame with a payload of so many bytes is at this place, or will be once it is written.
    pub fn note(&self, lsn: u64, position: Position, payload_bytes: usize) {
        let bytes = frame::frame_bytes(payload_bytes) as u32;
        self.lock().push_back(Place { lsn, position, bytes });
    }

    /// Segments before this one are given up.
    pub(super) fn forget_before(&self, segment: u64) {
        let mut places = self.lock();
        while places.front().is_some_and(|place| place.position.segment < segment) {
            places.pop_front();
        }
    }

    fn find(&self, lsn: u64) -> Option<Place> {
        let places = self.lock();
        let index = places.binary_search_by_key(&lsn, |place| place.lsn).ok()?;
        places.get(index).copied()
    }
}

/// Reads frames of copies from a disk.
pub struct CopyReader<D: Disk> {
    disk: D,
    places: CopyPlaces,
    open: Option<Segment<D::File>>,
}

struct Segment<F> {
    number: u64,
    file: F,
    seed: u32,
    bytes: u64,
}

impl<D: Disk> CopyReader<D> {
    pub fn new(disk: D, places: CopyPlaces) -> Self {
        Self { disk, places, open: None }
    }

    fn open_segment(&mut self, number: u64) -> Result<(), LogError> {
        if self.open.as_ref().is_none_or(|open| open.number != number) {
            let name = segment_name(number);
            let file = self.disk.open(&name).during("open", &name)?;
            let header = SegmentHeader::read(&self.disk, &file, number)?;
            self.open = Some(Segment { number, file, seed: header.seed(), bytes: header.bytes.get() });
        }
        Ok(())
    }
}

impl<D> ReadBack for CopyReader<D>
where
    D: Disk + Send,
    D::File: Send,
{
    fn read(&mut self, lsn: u64, payload: &mut Vec<u8>) -> Result<(), LogError> {
        let Some(place) = self.places.find(lsn) else {
            return Err(LogError::ReadBack { file: "the log".to_owned(), offset: 0, lsn, fault: Fault::Chain });
        };
        let Position { segment: number, offset } = place.position;
        self.open_segment(number)?;
        let Some(segment) = &self.open else { unreachable!("it was opened") };
        let fault = |fault| LogError::ReadBack { file: segment_name(number), offset, lsn, fault };
        let left = segment.bytes.saturating_sub(offset);
        if left < u64::from(place.bytes) {
            return Err(fault(Fault::End));
        }
        payload.clear();
        payload.resize(place.bytes as usize, 0);
        self.disk.read(&segment.file, offset, payload).during("read", &segment_name(number))?;
        let first = payload.first_chunk().ok_or_else(|| fault(Fault::Length))?;
        let header = frame::read_header(first, segment.seed, left).map_err(fault)?;
        if header.length.get() != place.bytes {
            return Err(fault(Fault::Length));
        }
        frame::verify(payload, segment.seed).map_err(fault)?;
        if header.lsn.get() != lsn || header.frame_type != FrameType::Copy as u8 {
            return Err(fault(Fault::Chain));
        }
        payload.truncate(FRAME_HEADER_BYTES + header.payload_length.get() as usize);
        payload.drain(..FRAME_HEADER_BYTES);
        Ok(())
    }
}
