//! What must be true of candidates after whatever has happened to them, once all run and reach each other again.
//!
//! 1. One history: what was acknowledged after another acknowledgement comes after it in the table. So no two nodes have
//!    accepted commits at the same time.
//! 2. Nothing acknowledged vanishes: a row is on all nodes, or in a directory `diverged` of one.
//! 3. A row that was set aside wasn't begun after the first acknowledgement of those that took its place.
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
        self.wrong.extend(disorder(&history).into_iter().map(|text| format!("{name}: {text}")));
        let there: HashSet<Token> = rows.iter().map(|(_, token)| *token).collect();
        let kept = kept_aside(candidates, name, &mut self.wrong);
        for lost in runs(receipts, &there) {
            self.wrong.extend(late(&lost, &history).map(|text| format!("{name}: {text}")));
            for receipt in lost {
                if kept.contains(&receipt.token) {
                    self.set_aside.push(receipt);
                } else {
                    self.wrong.push(format!("{name}: acknowledged, and nowhere: {receipt:?}"));
                }
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

/// What isn't there any more, in pieces that one node was told in one reign: their rows follow each other.
fn runs(receipts: &[Receipt], there: &HashSet<Token>) -> Vec<Vec<Receipt>> {
    let mut runs: Vec<Vec<Receipt>> = Vec::new();
    for receipt in receipts.iter().filter(|receipt| !there.contains(&receipt.token)) {
        let next =
            |last: &Receipt| last.token.site == receipt.token.site && last.row + 1 == receipt.row;
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(next) => run.push(*receipt),
            _ => runs.push(vec![*receipt]),
        }
    }
    runs
}

/// Whether the last of a lost run was begun when what replaced the run was acknowledged already.
fn late(lost: &[Receipt], history: &[Receipt]) -> Option<String> {
    let (first, last) = (lost.first()?, lost.last()?);
    let replaced = history.iter().filter(|receipt| receipt.row >= first.row);
    let early = replaced.min_by(|a, b| a.end.total_cmp(&b.end))?;
    (early.end < last.begin)
        .then(|| format!("a former primary acknowledged {last:?} after {early:?} of the next one"))
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
    fn a_lost_row_may_be_older_than_what_took_its_place_but_not_younger() {
        let told = [receipt(0, 1, 1.0, 1.5), receipt(0, 2, 2.0, 2.5), receipt(0, 3, 3.0, 3.5)];
        let there = HashSet::from([told[0].token]);
        let lost = runs(&told, &there);
        assert_eq!(lost, [told[1..].to_vec()]);
        let next = |begin| [told[0], receipt(1, 2, begin, begin + 0.5)];
        assert_eq!(late(&lost[0], &next(4.0)), None);
        assert!(late(&lost[0], &next(2.1)).is_some());
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
