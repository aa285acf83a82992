//! Writes the log: frames gather in a buffer, go out in one write and become durable in one sync.

use std::collections::VecDeque;

use sagacore_core::mutation::{Mutation, is_broken};
use zerocopy::IntoBytes;

use super::disk::{Disk, DiskError};
use super::error::{During, LogError};
use super::frame::{self, FRAME_HEADER_BYTES, FrameHeader, FrameType, Statement};
use super::read_back::CopyPlaces;
use super::recovery::Recovered;
use super::segment::{Preparation, Prepared, SegmentHeader, free_name, segment_name};
use super::{Config, Durability, Position, SECTOR_BYTES, SegmentInfo, free_segments_max};

/// The one writer of a log. After a failed write or sync it is poisoned: everything else is refused, nothing is tried
/// again, since the system may have dropped what it could not write.
///
/// The segment after the current one is made ready ahead: by `prepare_ahead`, or on another thread by
/// `begin_preparation` and `end_preparation`. If none is ready when it is needed, the writer makes one itself.
pub struct Writer<D: Disk> {
    disk: D,
    config: Config,
    boot_epoch: u32,
    /// Oldest first; the last one is written.
    segments: VecDeque<SegmentInfo>,
    file: D::File,
    /// The file was written and not yet synced. A MARK counts too: the chain goes through it.
    is_unsynced: bool,
    /// Files of earlier segments that were written and not yet synced: none in `Durability::Sync`.
    unsynced: Vec<D::File>,
    seed: u32,
    /// Where in the file the buffer goes.
    offset: u64,
    buffer: Vec<u8>,
    next: Next<D::File>,
    /// Files of freed segments.
    free: Vec<String>,
    last_lsn: u64,
    written_lsn: u64,
    synced_lsn: u64,
    last_checksum: u32,
    last_time_ms: u64,
    is_full: bool,
    poisoned: Option<String>,
    copies: CopyPlaces,
}

/// The segment after the current one.
enum Next<F> {
    Missing,
    /// In the making elsewhere.
    Away,
    Ready(Prepared<F>),
}

impl<D: Disk + Clone> Writer<D> {
    /// Goes on with a recovered log: writes a BOOT frame and syncs it. Only then may the broker serve.
    ///
    /// # Errors
    /// `LogError::Disk`, or `NoRoom`.
    pub fn start(disk: D, config: Config, recovered: &Recovered, time_ms: u64) -> Result<Self, LogError> {
        config.check()?;
        let end = recovered.end;
        let open = |number| -> Result<(D::File, SegmentHeader), LogError> {
            let name = segment_name(number);
            let file = disk.open(&name).during("open", &name)?;
            let header = SegmentHeader::read(&disk, &file, number)?;
            Ok((file, header))
        };
        let (file, header) = open(end.segment)?;
        let next = if recovered.has_next {
            let number = end.segment + 1;
            let (file, header) = open(number)?;
            Next::Ready(Prepared { number, file, seed: header.seed(), bytes: header.bytes.get() })
        } else {
            Next::Missing
        };
        let chain = &recovered.chain;
        let mut writer = Self {
            config,
            boot_epoch: recovered.boot_epoch,
            segments: recovered.segments.iter().copied().collect(),
            file,
            is_unsynced: false,
            unsynced: Vec::new(),
            seed: header.seed(),
            offset: end.offset.next_multiple_of(SECTOR_BYTES),
            buffer: Vec::new(),
            next,
            free: recovered.free.clone(),
            last_lsn: chain.last_lsn,
            written_lsn: chain.last_lsn,
            synced_lsn: chain.last_lsn,
            last_checksum: chain.last_checksum,
            last_time_ms: time_ms.max(chain.last_time_ms),
            is_full: false,
            poisoned: None,
            copies: CopyPlaces::default(),
            disk,
        };
        let statement = Statement::new(writer.oldest_segment(), recovered.unclean);
        writer.append(FrameType::Boot, time_ms, statement.as_bytes())?;
        writer.sync()?;
        Ok(writer)
    }

    /// Goes on to note where frames of copies lie, beside those that were recovered.
    pub fn note_copies(&mut self, places: CopyPlaces) {
        self.copies = places;
    }

    /// Adds a frame to the buffer and gives its LSN. It is durable when `durable_lsn` says so.
    ///
    /// # Errors
    /// `TooLarge`, which changes nothing. All others poison.
    pub fn append(&mut self, kind: FrameType, time_ms: u64, payload: &[u8]) -> Result<u64, LogError> {
        let max = self.config.payload_bytes_max();
        if payload.len() > max {
            return Err(LogError::TooLarge { bytes: payload.len(), max });
        }
        self.check()?;
        if !self.fits(payload.len()) {
            let rotated = self.rotate();
            self.poison_on(rotated)?;
        }
        let lsn = self.last_lsn + u64::from(kind != FrameType::Mark);
        if kind == FrameType::Copy {
            let (segment, offset) = (self.current_segment(), self.offset + self.buffer.len() as u64);
            self.copies.note(lsn, Position { segment, offset }, payload.len());
        }
        let header = FrameHeader {
            frame_type: kind as u8,
            boot_epoch: self.boot_epoch.into(),
            lsn: lsn.into(),
            time_ms: time_ms.into(),
            durable_lsn: if is_broken(Mutation::DurableLsnNotStated) { 0 } else { self.synced_lsn }.into(),
            previous: self.last_checksum.into(),
            ..FrameHeader::default()
        };
        self.last_checksum = frame::write_frame(&mut self.buffer, self.seed, header, payload);
        self.last_time_ms = time_ms;
        self.last_lsn = lsn;
        Ok(lsn)
    }

    /// Writes the buffer, and in `Durability::Sync` syncs it. Gives the LSN up to which all is durable now.
    ///
    /// # Errors
    /// Any error poisons.
    pub fn commit(&mut self) -> Result<u64, LogError> {
        match self.config.durability {
            Durability::Sync => self.sync()?,
            Durability::Os => self.write()?,
        }
        Ok(self.durable_lsn())
    }

    /// Says in the log itself that what was synced is durable, for a recovery that finds it damaged. Written, not
    /// synced: for when the log falls idle.
    ///
    /// # Errors
    /// Any error poisons.
    pub fn mark(&mut self) -> Result<(), LogError> {
        self.note()?;
        self.write()
    }

    /// Ends the log cleanly, synced. Nothing can be appended after it.
    ///
    /// # Errors
    /// Any error poisons; the next start finds an unclean stop then.
    pub fn seal(&mut self, time_ms: u64) -> Result<(), LogError> {
        self.append(FrameType::Seal, time_ms, &[])?;
        self.sync()?;
        self.poisoned = Some("it was sealed".to_owned());
        Ok(())
    }

    /// Gives up the segments all of whose frames come before `lsn`; gives how many. All that was appended so far is
    /// synced first: it may be what replaces them.
    ///
    /// # Errors
    /// Any error poisons.
    pub fn release_before(&mut self, lsn: u64) -> Result<usize, LogError> {
        self.check()?;
        let freed = self.segments.iter().skip(1).take_while(|segment| segment.first_lsn <= lsn).count();
        if freed == 0 {
            return Ok(0);
        }
        let first = usize::from(is_broken(Mutation::MiddleSegmentDeleted));
        let numbers: Vec<(u64, u64)> =
            self.segments.drain(first..freed + first).map(|segment| (segment.number, segment.bytes)).collect();
        self.copies.forget_before(self.oldest_segment());
        self.note()?;
        if !is_broken(Mutation::ReleasedBeforeCopied) {
            self.sync()?;
        }
        for (number, bytes) in numbers {
            let given_up = self.give_up(number, bytes);
            self.poison_on(given_up)?;
        }
        Ok(freed)
    }

    /// Makes the next segment ready, if it is not. False if the disk has no space for it now: see `is_full`.
    ///
    /// # Errors
    /// Any error but a full disk poisons.
    pub fn prepare_ahead(&mut self) -> Result<bool, LogError> {
        let Some(preparation) = self.begin_preparation() else { return Ok(true) };
        match preparation.finish() {
            Ok(prepared) => {
                self.end_preparation(prepared);
                Ok(true)
            }
            Err(LogError::Disk { error: DiskError::Full, .. }) => {
                self.next = Next::Missing;
                self.is_full = true;
                Ok(false)
            }
            Err(error) => self.poison_on(Err(error)),
        }
    }

    /// What there is to do for the next segment, if it is neither ready nor begun. To be handed to another thread.
    pub fn begin_preparation(&mut self) -> Option<Preparation<D>> {
        if !matches!(self.next, Next::Missing) || self.poisoned.is_some() {
            return None;
        }
        self.next = Next::Away;
        let number = self.segments.back()?.number + 1;
        let freed = self.free.pop();
        Some(Preparation::new(self.disk.clone(), &self.config, number, self.boot_epoch, freed))
    }

    /// Takes what a preparation gave.
    pub fn end_preparation(&mut self, prepared: Prepared<D::File>) {
        self.next = Next::Ready(prepared);
        self.is_full = false;
    }

    /// Whether an append of so many bytes needs no segment that is not ready.
    pub fn has_room(&self, payload_bytes: usize) -> bool {
        self.fits(payload_bytes) || matches!(self.next, Next::Ready(_))
    }

    /// Notes that the disk has no space for the next segment now.
    pub fn set_full(&mut self) {
        self.is_full = true;
    }

    /// Stops the log for a reason from outside.
    pub fn poison(&mut self, text: &str) {
        self.poisoned.get_or_insert_with(|| text.to_owned());
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The LSN of the next frame.
    pub fn next_lsn(&self) -> u64 {
        self.last_lsn + 1
    }

    /// All up to this LSN is as durable as the setting says.
    pub fn durable_lsn(&self) -> u64 {
        match self.config.durability {
            Durability::Sync => self.synced_lsn,
            Durability::Os => self.written_lsn,
        }
    }

    /// Bytes that wait to be written.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The segments that hold frames, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentInfo> {
        self.segments.iter()
    }

    /// Bytes of all the log's files.
    pub fn segments_bytes(&self) -> u64 {
        let used: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let ahead = u64::from(!matches!(self.next, Next::Missing)) + self.free.len() as u64;
        used + ahead * self.config.segment_bytes
    }

    /// Bytes that frames still find in the current segment and the one that is ready.
    pub fn room_bytes(&self) -> u64 {
        let ahead = if matches!(self.next, Next::Ready(_)) { self.config.segment_bytes } else { 0 };
        self.segment_bytes().saturating_sub(self.offset + self.buffer.len() as u64) + ahead
    }

    /// The same, and what freed segments would take: it needs no more space of the disk.
    pub fn spare_bytes(&self) -> u64 {
        self.room_bytes() + self.free.len() as u64 * self.config.segment_bytes
    }

    /// The disk had no space for the next segment. Frames are still taken as long as there is room.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Why the log stopped, if it did.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    fn oldest_segment(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.number)
    }

    fn segment_bytes(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.bytes)
    }

    fn current_segment(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.number)
    }

    fn current_name(&self) -> String {
        segment_name(self.current_segment())
    }

    fn check(&self) -> Result<(), LogError> {
        match &self.poisoned {
            Some(text) => Err(LogError::Poisoned { text: text.clone() }),
            None => Ok(()),
        }
    }

    fn poison_on<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.poison(&error.to_string());
        }
        result
    }

    /// Whether a frame fits into the current segment.
    fn fits(&self, payload_bytes: usize) -> bool {
        let end = self.offset + (self.buffer.len() + frame::frame_bytes(payload_bytes)) as u64;
        end <= self.segment_bytes()
    }

    /// Adds a MARK.
    fn note(&mut self) -> Result<(), LogError> {
        let statement = Statement::new(self.oldest_segment(), false);
        self.append(FrameType::Mark, self.last_time_ms, statement.as_bytes()).map(|_| ())
    }

    /// Hands the buffer to the system.
    fn write(&mut self) -> Result<(), LogError> {
        self.check()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.disk.write(&self.file, self.offset, &self.buffer).during("write", &self.current_name());
        self.is_unsynced = true;
        self.poison_on(written)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        self.written_lsn = self.last_lsn;
        Ok(())
    }

    /// Fills the last sector, writes and syncs: that sector is not written again.
    fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        if self.buffer.is_empty() && !self.is_unsynced && self.unsynced.is_empty() {
            return Ok(());
        }
        let end = self.offset + self.buffer.len() as u64;
        let is_padded = !is_broken(Mutation::SyncedSectorRewritten);
        let padding = if is_padded { end.next_multiple_of(SECTOR_BYTES) - end } else { 0 };
        self.buffer.resize(self.buffer.len() + padding as usize, 0);
        self.write()?;
        let before = self.unsynced.iter().try_for_each(|file| self.disk.sync(file));
        let synced = before.and_then(|()| self.sync_current()).during("sync", &self.current_name());
        self.poison_on(synced)?;
        self.unsynced.clear();
        self.is_unsynced = false;
        self.synced_lsn = self.written_lsn;
        Ok(())
    }

    fn sync_current(&self) -> Result<(), DiskError> {
        if is_broken(Mutation::SyncSkipped) && self.last_lsn.is_multiple_of(4) {
            return Ok(());
        }
        let synced = self.disk.sync(&self.file);
        if is_broken(Mutation::SyncRetried) { synced.or_else(|_| self.disk.sync(&self.file)) } else { synced }
    }

    /// Goes on in the next segment. What the current one holds is as durable as the setting says first.
    fn rotate(&mut self) -> Result<(), LogError> {
        self.commit()?;
        if matches!(self.next, Next::Missing) && !self.prepare_ahead()? {
            return Err(LogError::NoRoom);
        }
        let Next::Ready(prepared) = std::mem::replace(&mut self.next, Next::Missing) else {
            return Err(LogError::NoRoom);
        };
        let before = std::mem::replace(&mut self.file, prepared.file);
        if std::mem::take(&mut self.is_unsynced) {
            self.unsynced.push(before);
        }
        self.seed = prepared.seed;
        self.offset = super::SEGMENT_HEADER_BYTES;
        let first_lsn = self.last_lsn + 1;
        self.segments.push_back(SegmentInfo { number: prepared.number, first_lsn, bytes: prepared.bytes });
        Ok(())
    }

    /// Frees a segment's file: it is kept to be used again, or removed. Each is durable before the next begins, so that
    /// a crash leaves no gap.
    fn give_up(&mut self, number: u64, bytes: u64) -> Result<(), LogError> {
        let (name, free) = (segment_name(number), free_name(number));
        // Who makes the next segment waits for space, and would not see a file that is kept.
        let is_awaited = self.is_full && matches!(self.next, Next::Away);
        if !is_awaited && self.free.len() < free_segments_max(self.segments.len()) && bytes == self.config.segment_bytes
        {
            self.disk.rename(&name, &free).during("rename", &name)?;
            self.free.push(free);
        } else {
            self.disk.remove(&name).during("remove", &name)?;
        }
        if is_broken(Mutation::GivenUpNameNotSynced) {
            return Ok(());
        }
        self.disk.sync_directory().during("sync the directory of", &name)
    }
}

const _: () = assert!(FRAME_HEADER_BYTES as u64 <= SECTOR_BYTES);
