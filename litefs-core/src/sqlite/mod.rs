//! The SQLite file formats, sans-IO.
