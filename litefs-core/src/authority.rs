//! Whether this node may write: the proof that every commit asks for.
//!
//! A lease holder grants the right with a deadline on the monotonic clock; a node that was paused past
//! it finds the right gone at its next write, before any loop has noticed. What isn't here: how a lease
//! is won (`litefs-lease`) and who the primary is.
//!
//! Invariant: [`Authority::check`] returns a proof only while the deadline lies ahead. The proof borrows
//! the authority and isn't `Clone`: it can't be kept for later.

use std::marker::PhantomData;
use std::time::Instant;

use parking_lot::RwLock;

/// The node's right to write, shared by all its databases.
#[derive(Debug, Default)]
pub struct Authority(RwLock<Right>);

/// Proof that at the time of the check this node was allowed to write.
#[derive(Debug)]
pub struct WriteAuthority<'a>(PhantomData<&'a Authority>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Right {
    #[default]
    None,
    Until(Instant),
    Always,
}

impl Authority {
    /// An authority that grants nothing yet.
    pub fn new() -> Authority {
        Authority::default()
    }

    /// Grants the right without end: a static primary has no lease to lose.
    pub fn grant(&self) {
        *self.0.write() = Right::Always;
    }

    /// Grants the right until `deadline`.
    pub fn grant_until(&self, deadline: Instant) {
        *self.0.write() = Right::Until(deadline);
    }

    /// Takes the right away.
    pub fn revoke(&self) {
        *self.0.write() = Right::None;
    }

    /// The proof, if this node may write now.
    pub fn check(&self) -> Option<WriteAuthority<'_>> {
        let right = *self.0.read();
        let granted = match right {
            Right::None => false,
            Right::Until(deadline) => Instant::now() < deadline,
            Right::Always => true,
        };
        granted.then_some(WriteAuthority(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_right_ends_at_its_deadline_and_by_revocation() {
        let authority = Authority::new();
        assert!(authority.check().is_none());
        authority.grant_until(Instant::now() + Duration::from_secs(3600));
        assert!(authority.check().is_some());
        authority.grant_until(Instant::now());
        assert!(authority.check().is_none(), "the deadline itself is too late");
        authority.grant();
        assert!(authority.check().is_some());
        authority.revoke();
        assert!(authority.check().is_none());
    }
}
