//! A crash at every operation, of the daemon or of the power, leaves what SQLite promises.

use litefs_core::env::sim::Landed;
use litefs_tests::sim::workload::{Promise, Recording, Setting};

fn daemon_dies(mode: &'static str) {
    for sync in ["OFF", "NORMAL", "FULL"] {
        let setting = Setting::new(mode, sync);
        // Without a journal and without fsync nothing tells that a transaction is over.
        let silent = matches!(mode, "MEMORY" | "OFF") && sync == "OFF";
        let promise = if silent { Promise::Consistent } else { Promise::Acknowledged };
        Recording::new(setting).crash_everywhere(Landed::Everything, promise, usize::MAX);
    }
}

fn power_goes(mode: &'static str) {
    for sync in ["OFF", "NORMAL", "FULL", "EXTRA"] {
        let setting = Setting::new(mode, sync);
        let recording = Recording::new(setting);
        for landed in [Landed::Nothing, Landed::Everything, Landed::Some(1), Landed::Some(2)] {
            recording.crash_everywhere(landed, setting.after_power_loss(), 400);
        }
    }
}

#[test]
fn daemon_dies_in_delete_mode() {
    daemon_dies("DELETE");
}

#[test]
fn daemon_dies_in_truncate_mode() {
    daemon_dies("TRUNCATE");
}

#[test]
fn daemon_dies_in_persist_mode() {
    daemon_dies("PERSIST");
}

#[test]
fn daemon_dies_in_wal_mode() {
    daemon_dies("WAL");
}

#[test]
fn daemon_dies_in_memory_mode() {
    daemon_dies("MEMORY");
}

#[test]
fn daemon_dies_with_journal_off() {
    daemon_dies("OFF");
}

#[test]
fn power_goes_in_delete_mode() {
    power_goes("DELETE");
}

#[test]
fn power_goes_in_truncate_mode() {
    power_goes("TRUNCATE");
}

#[test]
fn power_goes_in_persist_mode() {
    power_goes("PERSIST");
}

#[test]
fn power_goes_in_wal_mode() {
    power_goes("WAL");
}

#[test]
fn power_goes_in_memory_mode() {
    power_goes("MEMORY");
}

#[test]
fn power_goes_with_journal_off() {
    power_goes("OFF");
}
