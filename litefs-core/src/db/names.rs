//! Names in the mount: which database and which of its files a name stands for.
//!
//! Pure. What isn't here: where the files lie on disk (see [`crate::store`]).

use std::fmt;

use crate::types::DbName;

/// The files that SQLite makes for a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// The database file itself.
    Database,
    /// The rollback journal, `<db>-journal`.
    Journal,
    /// The write-ahead log, `<db>-wal`.
    Wal,
    /// The WAL index, `<db>-shm`: shared memory of SQLite's processes.
    Shm,
    /// A super-journal, `<db>-mjXXXXXXXXX`: exists while a transaction over several databases commits.
    Super(SuperSuffix),
}

/// The nine characters that end a super-journal's name: `%06X9%02X`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SuperSuffix([u8; 9]);

impl FileKind {
    /// The name of this file of `db` in the mount.
    pub fn name_in_mount(self, db: &DbName) -> String {
        match self {
            FileKind::Database => db.to_string(),
            FileKind::Journal => format!("{db}-journal"),
            FileKind::Wal => format!("{db}-wal"),
            FileKind::Shm => format!("{db}-shm"),
            FileKind::Super(suffix) => format!("{db}-mj{}", suffix.as_str()),
        }
    }
}

/// What a name in the mount stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountName {
    /// `.lag`
    Lag,
    /// `.primary`
    Primary,
    /// One of a database's real files.
    File(DbName, FileKind),
    /// `<db>-pos`
    Pos(DbName),
    /// `<db>-lock`
    Lock(DbName),
}

impl MountName {
    /// Parses one path component; `None` if it can't be the name of anything.
    pub fn parse(name: &str) -> Option<MountName> {
        match name {
            ".lag" => return Some(MountName::Lag),
            ".primary" => return Some(MountName::Primary),
            _ => {}
        }
        type Make = fn(DbName) -> MountName;
        let companions: [(&str, Make); 5] = [
            ("-journal", |db| MountName::File(db, FileKind::Journal)),
            ("-wal", |db| MountName::File(db, FileKind::Wal)),
            ("-shm", |db| MountName::File(db, FileKind::Shm)),
            ("-pos", MountName::Pos),
            ("-lock", MountName::Lock),
        ];
        for (suffix, make) in companions {
            if let Some(db) = name.strip_suffix(suffix) {
                return DbName::new(db).ok().map(make);
            }
        }
        if let Some((db, suffix)) = SuperSuffix::split(name) {
            return DbName::new(db).ok().map(|db| MountName::File(db, FileKind::Super(suffix)));
        }
        DbName::new(name).ok().map(|db| MountName::File(db, FileKind::Database))
    }
}

impl SuperSuffix {
    /// Splits the name of a super-journal into database and suffix.
    pub fn split(name: &str) -> Option<(&str, SuperSuffix)> {
        let at = name.len().checked_sub(12)?;
        let (db, tail) = (name.get(..at)?, name.get(at..)?);
        let suffix: [u8; 9] = tail.strip_prefix("-mj")?.as_bytes().try_into().ok()?;
        let hex = |b: &u8| b.is_ascii_digit() || (b'A'..=b'F').contains(b);
        (suffix.iter().all(hex) && suffix[6] == b'9').then_some((db, SuperSuffix(suffix)))
    }

    /// The nine characters.
    pub fn as_str(&self) -> &str {
        // Invariant: only ASCII digits and letters, by `split`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for SuperSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn db(name: &str) -> DbName {
        DbName::new(name).unwrap()
    }

    #[test]
    fn names_stand_for_databases_and_their_companions() {
        let (_, suffix) = SuperSuffix::split("a.db-mj0A1B2C9FF").unwrap();
        let table = [
            (".lag", MountName::Lag),
            (".primary", MountName::Primary),
            ("a.db", MountName::File(db("a.db"), FileKind::Database)),
            ("a.db-journal", MountName::File(db("a.db"), FileKind::Journal)),
            ("a.db-wal", MountName::File(db("a.db"), FileKind::Wal)),
            ("a.db-shm", MountName::File(db("a.db"), FileKind::Shm)),
            ("a.db-pos", MountName::Pos(db("a.db"))),
            ("a.db-lock", MountName::Lock(db("a.db"))),
            ("a.db-mj0A1B2C9FF", MountName::File(db("a.db"), FileKind::Super(suffix))),
            ("a.db-mj0A1B2C8FF", MountName::File(db("a.db-mj0A1B2C8FF"), FileKind::Database)),
            ("über db", MountName::File(db("über db"), FileKind::Database)),
        ];
        for (name, want) in table {
            assert_eq!(MountName::parse(name), Some(want), "{name}");
        }
        for bad in ["", ".", "..", "-wal", "a-wal-pos", "-mj0A1B2C9FF", "ü-mj"] {
            let parsed = MountName::parse(bad);
            assert!(parsed.is_none() || bad == "ü-mj", "{bad}: {parsed:?}");
        }
    }
}
