//! Whether a candidate takes a lease that is free.
//!
//! Pure: what it knows is given. The danger is a node that lacks what others have: if it leads, theirs is set aside. So:
//!
//! | this candidate | takes the lease |
//! |---|---|
//! | has all that a primary is known to have reached, and nobody who stands has more | at once |
//! | followed a primary, caught up, until its end a moment ago, in the last reign or the one before | at once: it may lack the last moment |
//! | lacks something, and followed nobody lately | never, unless stale promotion is allowed |
//! | has nothing, and the cluster has something | never, unless stale promotion is allowed |
//! | any of these, while a candidate stands that has more | after [`GRACE`], if that one hasn't taken it |
//!
//! # Limits
//! What a primary has reached is told when it renews its lease, so it is a lower bound: what was committed after
//! that, and reached no one who stands, is set aside when its node comes back (`diverged/`). Nodes of the original tell
//! nothing and ask nothing: they take a free lease whatever they have.

use std::time::Duration;

use litefs_lease::{Candidacy, Progress};

/// What a candidate knows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) progress: Progress,
    /// It had all that a primary had, and followed it until a moment ago.
    pub(super) was_live: bool,
    /// Its user has said that old data is better than none.
    pub(super) allow_stale: bool,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// Another one has more and may take it: look again soon.
    Yield,
    /// It must not lead.
    Stale,
}

/// Decides, after the lease was seen free for `waited`.
pub(super) fn judge(own: Candidate, known: Candidacy, waited: Duration) -> Verdict {
    let patient = waited < GRACE;
    if patient && known.rival.is_some_and(|rival| rival > own.progress) {
        return Verdict::Yield;
    }
    let reached = known.reached.unwrap_or_default();
    let is_empty = own.progress.transactions == 0;
    // A primary may have died before anybody had all of its reign; but who missed a whole one follows nobody any more.
    let is_live = own.was_live && own.progress.reign + 1 >= reached.reign;
    if own.progress >= reached || (is_live && !is_empty) {
        return Verdict::Take;
    }
    match own.allow_stale {
        true if patient => Verdict::Yield,
        true => Verdict::Take,
        false => Verdict::Stale,
    }
}

/// How long one who has less leaves the lease to one who has more.
pub(super) const GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn at(reign: u64, transactions: u64) -> Progress {
        Progress { reign, transactions }
    }

    fn candidate(progress: Progress) -> Candidate {
        Candidate { progress, was_live: false, allow_stale: false }
    }

    fn known(reached: Progress) -> Candidacy {
        Candidacy { reached: Some(reached), rival: None }
    }

    #[test]
    fn a_new_cluster_is_led_by_whoever_comes() {
        assert_eq!(judge(candidate(at(0, 0)), Candidacy::default(), NOW), Verdict::Take);
    }

    #[test]
    fn one_who_has_all_takes_it_and_one_who_lacks_something_does_not() {
        let known = known(at(3, 100));
        for (progress, want) in [
            (at(3, 100), Verdict::Take),
            (at(3, 101), Verdict::Take),
            (at(3, 99), Verdict::Stale),
            (at(0, 0), Verdict::Stale),
            // More, but of a reign that another one followed.
            (at(2, 105), Verdict::Stale),
        ] {
            assert_eq!(judge(candidate(progress), known, NOW), want, "{progress:?}");
            let later = judge(candidate(progress), known, GRACE);
            assert_eq!(later, want, "time doesn't make a stale node better: {progress:?}");
        }
    }

    #[test]
    fn one_who_followed_to_the_end_may_lack_the_last_moment() {
        let live = Candidate { was_live: true, ..candidate(at(3, 99)) };
        assert_eq!(judge(live, known(at(3, 100)), NOW), Verdict::Take);
        assert_eq!(judge(live, known(at(4, 90)), NOW), Verdict::Take, "a reign that died young");
        let forked = known(at(5, 90));
        assert_eq!(judge(live, forked, NOW), Verdict::Stale, "it has missed a whole reign");
        let empty = Candidate { progress: at(3, 0), ..live };
        assert_eq!(judge(empty, known(at(3, 100)), NOW), Verdict::Stale);
    }

    #[test]
    fn one_who_has_less_waits_for_one_who_has_more() {
        let known = Candidacy { reached: Some(at(3, 100)), rival: Some(at(3, 102)) };
        let own = candidate(at(3, 101));
        assert_eq!(judge(own, known, NOW), Verdict::Yield);
        assert_eq!(judge(own, known, GRACE), Verdict::Take, "the other one doesn't come");
        let equal = Candidacy { rival: Some(at(3, 101)), ..known };
        assert_eq!(judge(own, equal, NOW), Verdict::Take, "the lease decides between equals");
    }

    #[test]
    fn a_user_may_prefer_old_data_after_a_while() {
        let own = Candidate { allow_stale: true, ..candidate(at(3, 1)) };
        assert_eq!(judge(own, known(at(3, 100)), NOW), Verdict::Yield);
        assert_eq!(judge(own, known(at(3, 100)), GRACE), Verdict::Take);
    }
}
