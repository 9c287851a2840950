//! A crash at every operation, of the daemon or of the power, leaves what SQLite promises.

use std::time::Duration;

use litefs_core::db::Durability;
use litefs_core::env::sim::Landed;
use litefs_core::log::LogOptions;
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
fn daemon_dies_and_the_log_has_no_older_transactions() {
    for mode in ["DELETE", "WAL", "MEMORY", "OFF"] {
        let setting = Setting::new(mode, "NORMAL");
        let recording = Recording::without_history(setting);
        recording.crash_everywhere(Landed::Everything, Promise::Acknowledged, usize::MAX);
    }
}

#[test]
fn power_goes_and_the_log_has_no_older_transactions() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "WAL"] {
        let setting = Setting::new(mode, "EXTRA");
        let recording = Recording::without_history(setting);
        for landed in [Landed::Nothing, Landed::Some(7)] {
            recording.crash_everywhere(landed, Promise::Acknowledged, 400);
        }
    }
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

#[test]
fn power_goes_while_the_log_changes_segments() {
    for mode in ["DELETE", "WAL"] {
        let setting = Setting::new(mode, "EXTRA");
        let recording = Recording::with(setting, |options| {
            options
                .compress(false)
                .log(LogOptions { segment_len: 3000, segment_age: Duration::MAX })
        });
        for landed in [Landed::Nothing, Landed::Everything, Landed::Some(3), Landed::Some(4)] {
            recording.crash_everywhere(landed, Promise::Acknowledged, 400);
        }
    }
}

#[test]
fn power_goes_and_commits_are_always_durable_if_the_node_is_told_so() {
    for (mode, sync) in [
        ("WAL", "NORMAL"),
        ("WAL", "OFF"),
        ("DELETE", "NORMAL"),
        ("TRUNCATE", "NORMAL"),
        ("DELETE", "FULL"),
        ("PERSIST", "NORMAL"),
    ] {
        let setting = Setting::new(mode, sync);
        let recording = Recording::with(setting, |options| options.durability(Durability::Always));
        for landed in [Landed::Nothing, Landed::Everything, Landed::Some(5), Landed::Some(6)] {
            recording.crash_everywhere(landed, Promise::Acknowledged, 120);
        }
    }
}
