//! What must hold for a run to succeed, and which of it does not.

/// What must hold for a run to succeed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Expectations {
    /// Exit with 1 if a packet was lost.
    #[arg(long)]
    pub fail_on_loss: bool,
    /// Exit with 1 if a flow met more than one backend within a connection, or a packet came where
    /// it does not belong.
    #[arg(long)]
    pub fail_on_misdelivery: bool,
    /// Exit with 1 if a packet came more than once.
    #[arg(long)]
    pub fail_on_duplicates: bool,
    /// Exit with 1 if packets of a flow came in another order than they were sent.
    #[arg(long)]
    pub fail_on_reordering: bool,
    /// Exit with 1 if a checksum was wrong.
    #[arg(long)]
    pub fail_on_damage: bool,
}

impl Expectations {
    /// The names of those that `found` does not meet.
    #[must_use]
    pub fn missed(&self, found: &Found) -> Vec<&'static str> {
        [
            (self.fail_on_loss, found.lost, "loss"),
            (self.fail_on_misdelivery, found.misdelivered, "misdelivery"),
            (self.fail_on_duplicates, found.duplicates, "duplicates"),
            (self.fail_on_reordering, found.reordered, "reordering"),
            (self.fail_on_damage, found.damaged, "damage"),
        ]
        .into_iter()
        .filter(|(asked, count, _)| *asked && *count > 0)
        .map(|(_, _, name)| name)
        .collect()
    }
}

/// The figures that expectations are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Packets lost.
    pub lost: u64,
    /// Flows moved, and packets at the wrong place.
    pub misdelivered: u64,
    /// Repetitions.
    pub duplicates: u64,
    /// Packets out of order.
    pub reordered: u64,
    /// Wrong checksums.
    pub damaged: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_and_is_not_met_is_reported() {
        let found = Found {
            lost: 1,
            misdelivered: 2,
            ..Found::default()
        };
        let asked = Expectations {
            fail_on_loss: true,
            fail_on_duplicates: true,
            ..Expectations::default()
        };
        assert_eq!(asked.missed(&found), ["loss"]);
        assert_eq!(Expectations::default().missed(&found), [""; 0]);
    }
}
