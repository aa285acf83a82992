//! What was done to a directory since it was last synced, so that it can be undone.
//!
//! There is a line for each step in a file of notes. A killed process leaves it, and the next one undoes the steps from
//! the last to the first. A file that lost its last name is kept in `DIRECTORY.undo` under a number. The notes are
//! elsewhere: the directory's own disk may be full.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Undo {
    directory: PathBuf,
    folder: PathBuf,
    journal: PathBuf,
    /// Notes since the last sync.
    notes: u64,
}

impl Undo {
    /// Undoes what the last process had not synced, but for the first `survive` steps of it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(directory: &Path, journal: &Path, survive: impl FnOnce(usize) -> usize) -> io::Result<Self> {
        let mut folder = directory.as_os_str().to_owned();
        folder.push(".undo");
        let (directory, journal) = (directory.to_owned(), journal.to_owned());
        let mut undo = Self { directory, folder: folder.into(), journal, notes: 0 };
        fs::create_dir_all(&undo.folder)?;
        let text = fs::read_to_string(&undo.journal).unwrap_or_default();
        let notes: Vec<&str> = text.lines().collect();
        let survivors = survive(notes.len()).min(notes.len());
        for note in notes[survivors..].iter().rev() {
            undo.take_back(note)?;
        }
        undo.notes = notes.len() as u64;
        undo.settle()?;
        Ok(undo)
    }

    /// A file was created.
    ///
    /// # Errors
    /// What the file system says, as of all that follow.
    pub fn created(&mut self, name: &str) -> io::Result<()> {
        self.note(&format!("created {name}"))
    }

    /// A file is about to be renamed: call `renamed` when it was.
    pub fn renaming(&mut self, to: &str) -> io::Result<()> {
        if self.directory.join(to).exists() { self.removing(to) } else { Ok(()) }
    }

    /// A file was renamed.
    pub fn renamed(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.note(&format!("renamed {from} {to}"))
    }

    /// A file is about to be removed.
    pub fn removing(&mut self, name: &str) -> io::Result<()> {
        let number = self.notes;
        let kept = self.folder.join(number.to_string());
        fs::remove_file(&kept).or_else(missing)?;
        fs::hard_link(self.directory.join(name), kept)?;
        self.note(&format!("removed {name} {number}"))
    }

    /// The directory was synced: what was done stays done.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.notes == 0 {
            return Ok(());
        }
        fs::remove_file(&self.journal).or_else(missing)?;
        for number in 0..std::mem::take(&mut self.notes) {
            fs::remove_file(self.folder.join(number.to_string())).or_else(missing)?;
        }
        Ok(())
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        let mut journal = fs::OpenOptions::new().create(true).append(true).open(&self.journal)?;
        journal.write_all(format!("{text}\n").as_bytes())?;
        self.notes += 1;
        Ok(())
    }

    fn take_back(&self, note: &str) -> io::Result<()> {
        let words: Vec<&str> = note.split(' ').collect();
        match words[..] {
            ["created", name] => fs::remove_file(self.directory.join(name)).or_else(missing),
            ["renamed", from, to] => fs::rename(self.directory.join(to), self.directory.join(from)).or_else(missing),
            // It was noted before it was done: the process may have been killed between the two.
            ["removed", name, number] => fs::rename(self.folder.join(number), self.directory.join(name)),
            _ => Err(io::Error::other(format!("what is {note:?}?"))),
        }
    }
}

fn missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Creates a file, renames one over another and removes one; all with notes.
    fn work(directory: &Path, undo: &mut Undo) -> io::Result<()> {
        fs::write(directory.join("new"), "new")?;
        undo.created("new")?;
        undo.renaming("b")?;
        fs::rename(directory.join("a"), directory.join("b"))?;
        undo.renamed("a", "b")?;
        undo.removing("c")?;
        fs::remove_file(directory.join("c"))
    }

    fn directory_of_three() -> io::Result<(tempfile::TempDir, PathBuf)> {
        let above = tempfile::tempdir()?;
        let directory = above.path().join("log");
        fs::create_dir(&directory)?;
        for name in ["a", "b", "c"] {
            fs::write(directory.join(name), name)?;
        }
        Ok((above, directory))
    }

    #[test]
    fn what_was_not_synced_is_undone() -> io::Result<()> {
        let (_above, directory) = directory_of_three()?;
        work(&directory, &mut Undo::open(&directory, &directory.with_extension("notes"), |_| 0)?)?;
        assert_eq!(names(&directory), ["b", "new"]);
        Undo::open(&directory, &directory.with_extension("notes"), |_| 0)?;
        assert_eq!(names(&directory), ["a", "b", "c"]);
        assert_eq!(fs::read_to_string(directory.join("b"))?, "b");
        Ok(())
    }

    #[test]
    fn the_first_steps_may_survive() -> io::Result<()> {
        let (_above, directory) = directory_of_three()?;
        work(&directory, &mut Undo::open(&directory, &directory.with_extension("notes"), |_| 0)?)?;
        Undo::open(&directory, &directory.with_extension("notes"), |steps| steps - 1)?;
        assert_eq!(names(&directory), ["b", "c", "new"]);
        Ok(())
    }

    #[test]
    fn what_was_synced_stays() -> io::Result<()> {
        let (_above, directory) = directory_of_three()?;
        let mut undo = Undo::open(&directory, &directory.with_extension("notes"), |_| 0)?;
        work(&directory, &mut undo)?;
        undo.settle()?;
        Undo::open(&directory, &directory.with_extension("notes"), |_| 0)?;
        assert_eq!(names(&directory), ["b", "new"]);
        assert!(names(&undo.folder).is_empty());
        Ok(())
    }
}
