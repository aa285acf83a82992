//! Inputs that are kept: each reaches something in a target that no other one does. libFuzzer found them; what once
//! broke a target is among them under its own name.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Target;

/// Where the inputs of a target are kept.
pub fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The kept inputs of a target with their names, in the order of these.
///
/// # Errors
/// What the folder or a file in it cannot be read for.
pub fn kept(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder(target))? {
        let path = entry?.path();
        inputs.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), fs::read(&path)?));
    }
    inputs.sort();
    Ok(inputs)
}

/// What mutation begins with: valid bytes, and what is kept.
///
/// # Errors
/// As `kept`.
pub fn bases(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut bases = (target.seeds)();
    bases.extend(kept(target)?.into_iter().map(|(_, bytes)| bytes));
    Ok(bases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mutator, TARGETS};

    /// Mutants of each target: a few seconds for all of them together.
    const MUTANTS: usize = 3_000;

    #[test]
    fn every_target_holds_for_what_is_kept_and_for_its_mutants() {
        for target in TARGETS {
            let kept = kept(target).unwrap_or_else(|error| panic!("{}: {error}", target.name));
            assert!(kept.len() >= 3, "{}: {} inputs are kept", target.name, kept.len());
            for (name, bytes) in &kept {
                assert!(bytes.len() <= 64 * 1024, "{}/{name} is large", target.name);
                (target.run)(bytes);
            }
            let bases = bases(target).unwrap_or_else(|error| panic!("{}: {error}", target.name));
            bases.iter().for_each(|bytes| (target.run)(bytes));
            let mut mutator = Mutator::new(bases, 1);
            for _ in 0..MUTANTS {
                (target.run)(mutator.draw());
            }
        }
    }
}
