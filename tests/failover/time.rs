//! A primary that stands still for longer than its right lasts, and clocks that jump.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use litefs_tests::bench::clock;
use litefs_tests::candidates::Candidates;
use litefs_tests::day::Day;
use litefs_tests::node::LIMIT;
use litefs_tests::process::Process;
use nix::sys::signal::Signal;

use crate::{PROGRAM, fast, slow};

/// It wakes while its applications are within their statements, and what these wait for is what it must refuse.
fn wakes_too_late(day: &mut Day) {
    let old = day.settle();
    day.candidates.all[old].node.process().pause();
    let paused = clock();
    let new = day.leader_after(paused, |at| at != old);
    day.candidates.all[old].node.process().signal(Signal::SIGCONT);
    assert_eq!(day.settle(), new);
    // What was begun before may have been committed before, and only its answer came late.
    day.never("committed after it woke", |r| r.token.site == old && r.begin > paused);
}

#[test]
fn a_primary_that_was_paused_refuses_its_next_write() {
    for options in [fast(), slow()] {
        let mut day = Day::begin(PROGRAM, options);
        wakes_too_late(&mut day);
        day.end();
    }
}

/// The wall clock of one process, which can be moved: a library that is loaded before libc.
struct WallClock {
    library: String,
    file: File,
    path: String,
}

impl WallClock {
    fn new(dir: &Path) -> WallClock {
        let library = dir.join("wall.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("failover/wall.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        let (code, output) = Process::run(&mut cc, LIMIT);
        assert_eq!(code, Some(0), "{output}");
        let path = dir.join("ahead");
        let options = OpenOptions::new().write(true).create_new(true).to_owned();
        let clock = WallClock {
            library: library.to_str().unwrap().to_owned(),
            file: options.open(&path).unwrap(),
            path: path.to_str().unwrap().to_owned(),
        };
        clock.jump(0);
        clock
    }

    /// Goes ahead of the machine's by so many seconds from now on.
    fn jump(&self, ahead: i64) {
        self.file.write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
    }

    fn env(&self) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".into(), self.library.clone()),
            ("LITEFS_TEST_AHEAD".into(), self.path.clone()),
        ]
    }
}

#[test]
fn wall_clocks_that_jump_change_nothing() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let clocks = dirs.each_ref().map(|dir| WallClock::new(dir.path()));
    let mut candidates = Candidates::new(fast());
    for (candidate, clock) in candidates.all.iter_mut().zip(&clocks) {
        candidate.node.options().env = clock.env();
    }
    candidates.begin(&[0, 1, 2]);
    let mut day = Day::with(PROGRAM, candidates);
    let leader = day.settle();
    let begin = clock();
    for (at, ahead) in [(0, HOUR), (0, -HOUR), (1, HOUR), (2, -HOUR)] {
        clocks[at].jump(ahead);
        day.pass(Duration::from_millis(1500));
        assert_eq!(day.leader(), leader);
    }
    day.never("another one has written", |r| r.token.site != leader && r.end > begin);
    // It isn't that nobody has noticed.
    let lag = day.candidates.all[1].status().unwrap()["lagSeconds"].as_f64().unwrap();
    assert!((2.0 * HOUR as f64 - lag).abs() < 60.0, "{lag}");

    // The next primary's clock is another one, and that of the one after it, too.
    for _ in 0..2 {
        let old = day.settle();
        day.candidates.kill(old);
        day.leader_after(clock(), |at| at != old);
        day.candidates.up(old);
        day.settle();
    }
    day.end();
}

const HOUR: i64 = 3600;
