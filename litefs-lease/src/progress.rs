//! How far a node has come, so that those who have less let those who have more lead.

/// The reign in which a node last had all that the primary had, and how many transactions it has.
///
/// Compared in this order: transactions of an older reign that the newer one never saw don't count. A reign begins
/// whenever a node becomes the primary, with the number after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Progress {
    /// The number of the reign; 0 before the first.
    pub reign: u64,
    /// The sum of the TXIDs of all databases: each transaction raises it by one.
    pub transactions: u64,
}

/// What is known when the lease is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candidacy {
    /// How far a primary is known to have come, at least; `None` if that was never told.
    pub reached: Option<Progress>,
    /// The most that another candidate has, of those who have stood since then.
    pub rival: Option<Progress>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_reign_counts_more_than_many_transactions() {
        let (old, new) =
            (Progress { reign: 7, transactions: 1005 }, Progress { reign: 8, transactions: 1003 });
        assert!(new > old);
        assert!(Progress { transactions: 1004, ..new } > new);
        assert!(Progress::default() < old);
    }
}
