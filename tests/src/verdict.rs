//! What must be true of candidates after whatever has happened to them, once all run and reach each other again.
//!
//! 1. No two nodes accept commits at the same time: where one was told of rows that follow each other, without a pause,
//!    nobody else was told anything in between.
//! 2. One history: what was acknowledged after another acknowledgement comes after it in the table.
//! 3. Nothing acknowledged vanishes: a row is on all nodes, or in a directory `diverged` of one.
//! 4. All nodes are equal down to the bytes, and intact.
//! 5. No process has ended or panicked that wasn't killed.
//!
//! Time is that of the applications: a statement lies somewhere between its begin and its end, so only what was begun
//! after another one's end certainly came after it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use litefs_core::ltx::{DecodeError, Decoder};
use rusqlite::{Connection, MAIN_DB};

use crate::candidates::Candidates;
use crate::receipts::{Receipt, Token};
use crate::sqlite;

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How many rows were acknowledged.
    pub acknowledged: usize,
    /// Rows that were acknowledged, and set aside.
    pub set_aside: Vec<Receipt>,
    /// What must not be.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Waits until the nodes are equal, and judges.
    pub fn of(candidates: &mut Candidates, receipts: &[(String, Vec<Receipt>)]) -> Verdict {
        let mut verdict = Verdict::default();
        if !candidates.converge(CONVERGE_LIMIT) {
            verdict.wrong.push("the nodes don't get equal".into());
        }
        for (name, receipts) in receipts {
            verdict.judge(candidates, name, receipts);
        }
        verdict.wrong.extend(candidates.exits());
        verdict
    }

    fn judge(&mut self, candidates: &Candidates, name: &str, receipts: &[Receipt]) {
        self.acknowledged += receipts.len();
        let images: Vec<_> = candidates.all.iter().map(|other| other.export(name)).collect();
        for (at, image) in images.iter().enumerate().skip(1) {
            if *image != images[0] {
                self.wrong.push(format!("{name}: nodes 0 and {at} differ"));
            }
        }
        let rows = match rows(&images[0]) {
            Ok(rows) => rows,
            Err(err) => return self.wrong.push(format!("{name}: {err}")),
        };
        let told: HashMap<Token, Receipt> = receipts.iter().map(|r| (r.token, *r)).collect();
        let history: Vec<Receipt> =
            rows.iter().filter_map(|(_, token)| told.get(token).copied()).collect();
        let disorder = disorder(&history).into_iter().chain(overlaps(&stints(receipts)));
        self.wrong.extend(disorder.map(|text| format!("{name}: {text}")));
        let there: HashSet<Token> = rows.iter().map(|(_, token)| *token).collect();
        let kept = kept_aside(candidates, name, &mut self.wrong);
        for receipt in receipts.iter().filter(|receipt| !there.contains(&receipt.token)) {
            if kept.contains(&receipt.token) {
                self.set_aside.push(*receipt);
            } else {
                self.wrong.push(format!("{name}: acknowledged, and nowhere: {receipt:?}"));
            }
        }
    }

    /// One line, and what is wrong.
    pub fn text(&self) -> String {
        let (acknowledged, aside) = (self.acknowledged, self.set_aside.len());
        let judgement = if self.wrong.is_empty() { "nothing is wrong" } else { "WRONG" };
        let wrong = self.wrong.iter().take(SHOWN).map(|what| format!("\n  {what}"));
        let head = format!("{acknowledged} acknowledged, {aside} of them set aside: {judgement}");
        std::iter::once(head).chain(wrong).collect()
    }
}

/// The table's rows in its order; the database must be intact.
fn rows(image: &[u8]) -> Result<Vec<(i64, Token)>, String> {
    let read = || {
        let mut conn = Connection::open_in_memory()?;
        // A database in memory has no WAL; these bytes are complete without one.
        let mut image = image.to_vec();
        if let Some(versions) = image.get_mut(18..20) {
            versions.fill(1);
        }
        conn.deserialize_read_exact(MAIN_DB, &image[..], image.len(), true)?;
        let intact = sqlite::text(&conn, "PRAGMA integrity_check");
        let mut select = conn.prepare("SELECT id, token FROM row ORDER BY id")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        rusqlite::Result::Ok((intact, rows.collect::<rusqlite::Result<Vec<_>>>()?))
    };
    let (intact, rows) = read().map_err(|err: rusqlite::Error| err.to_string())?;
    if intact != "ok" {
        return Err(intact);
    }
    let parse = |(id, text): (i64, String)| Some((id, Token::parse(text.as_bytes())?));
    rows.into_iter().map(parse).collect::<Option<_>>().ok_or("a row is no token".into())
}

/// Rows that come after others, though they were acknowledged before those were begun.
fn disorder(history: &[Receipt]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut latest: Option<&Receipt> = None;
    for receipt in history {
        if let Some(before) = latest.filter(|before| receipt.end < before.begin) {
            wrong.push(format!("two histories: {before:?} comes before {receipt:?}"));
        }
        latest = latest.filter(|before| before.begin >= receipt.begin).or(Some(receipt));
    }
    wrong
}

/// What a node was told without a pause: the rows follow each other. The receipts of each node are in its order.
fn stints(receipts: &[Receipt]) -> Vec<&[Receipt]> {
    let next = |last: &Receipt, next: &Receipt| {
        last.token.site == next.token.site
            && last.row + 1 == next.row
            && next.begin - last.end < PAUSE
    };
    receipts.chunk_by(next).collect()
}

/// Acknowledgements of one node within a stint of another.
fn overlaps(stints: &[&[Receipt]]) -> Vec<String> {
    let mut wrong = Vec::new();
    for stint in stints {
        let [first, .., last] = stint else { continue };
        let others = stints.iter().filter(|other| other[0].token.site != first.token.site);
        for other in others {
            let at = other.partition_point(|receipt| receipt.begin <= first.end);
            if let Some(within) = other.get(at).filter(|receipt| receipt.end < last.begin) {
                wrong.push(format!("two primaries: {within:?} between {first:?} and {last:?}"));
            }
        }
    }
    wrong
}

/// What is in the directories `diverged` of all nodes.
fn kept_aside(candidates: &Candidates, name: &str, wrong: &mut Vec<String>) -> HashSet<Token> {
    let mut tokens = HashSet::new();
    for candidate in &candidates.all {
        let root = candidate.node.backing(name).join("diverged");
        for file in entries(&root).iter().flat_map(|dir| entries(dir)) {
            if file.extension().is_some_and(|extension| extension == "ltx")
                && let Err(err) = read_ltx(&file, &mut tokens)
            {
                wrong.push(format!("{}: {err}", file.display()));
            }
        }
    }
    tokens
}

fn read_ltx(path: &Path, tokens: &mut HashSet<Token>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(BufReader::new(File::open(path).unwrap()))?;
    let mut page = vec![0; decoder.header().page_size.as_usize()];
    while decoder.next_page(&mut page)?.is_some() {
        Token::find_all(&page, tokens);
    }
    decoder.finish().map(drop)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

const CONVERGE_LIMIT: Duration = Duration::from_secs(60);
/// In seconds; a lease may have gone elsewhere and come back in it.
const PAUSE: f64 = 0.3;
/// Of many wrong things, the first say enough.
const SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(site: usize, row: i64, begin: f64, end: f64) -> Receipt {
        Receipt { token: Token { site, number: begin as u64 }, row, begin, end }
    }

    #[test]
    fn a_history_in_the_order_of_time_is_right_and_any_other_is_not() {
        let mut history = vec![receipt(0, 1, 1.0, 2.0), receipt(1, 2, 1.5, 3.0)];
        assert_eq!(disorder(&history).len(), 0, "at the same time is no order");
        history.push(receipt(0, 3, 0.5, 1.4));
        assert_eq!(disorder(&history).len(), 1);
    }

    #[test]
    fn nobody_else_is_told_anything_within_a_stint() {
        let told = [receipt(0, 1, 1.0, 1.1), receipt(0, 2, 1.2, 1.3), receipt(0, 3, 1.4, 1.5)];
        assert_eq!(stints(&told), [&told[..]]);
        let with = |begin, end| {
            let other = [receipt(1, 2, begin, end)];
            overlaps(&stints(&[&told[..], &other].concat())).len()
        };
        assert_eq!((with(0.5, 1.2), with(1.35, 2.0), with(2.0, 2.1)), (0, 0, 0));
        assert_eq!(with(1.15, 1.35), 1);
        let paused = [told[0], receipt(0, 2, 5.0, 5.1), receipt(1, 2, 2.0, 2.1)];
        assert_eq!(overlaps(&stints(&paused)), [""; 0]);
    }

    #[test]
    fn tokens_are_found_among_other_bytes() {
        let token = Token { site: 2, number: 34 };
        let bytes = [b"<<x:1>\xff", token.text().as_bytes(), b"<2:"].concat();
        let mut found = HashSet::new();
        Token::find_all(&bytes, &mut found);
        assert_eq!(found, HashSet::from([token]));
    }
}
