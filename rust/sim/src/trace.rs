//! What happened: a hash of everything, to see that a seed replays, and, where wanted, a story to read.

/// See the module's text.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    /// The story, if it is told.
    lines: Option<Vec<String>>,
    pub now_us: u64,
}

impl Trace {
    pub fn new(is_told: bool) -> Self {
        Self { hash: 0x6a09_e667_f3bc_c908, lines: is_told.then(Vec::new), now_us: 0 }
    }

    /// Something happened that a replay must repeat.
    pub fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn is_told(&self) -> bool {
        self.lines.is_some()
    }

    /// A line of the story.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let now_us = self.now_us;
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>6}.{:06} {}", now_us / 1_000_000, now_us % 1_000_000, line()));
        }
    }

    pub fn take_story(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}
