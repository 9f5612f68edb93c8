//! Whose turn is next when a table is filled: the paper's "relative frequency of turns", spread
//! evenly through the fill.
//!
//! The k-th turn of a backend of weight w falls in round ⌊(2k + 1)·W / 2w⌋, W the largest weight,
//! so every prefix of the fill honours the weights, and small changes of weight move few entries.
//! Turns are handed out a round at a time: whoever fills the table then knows what comes next, and
//! the processor can begin with it before the turn at hand is done.

/// A ring of rounds, each a list of the backends that have a turn in it.
pub(super) struct Calendar {
    turns: Vec<Turn>,
    /// A power of two of them, longer than the longest gap between two turns of one backend.
    rounds: Vec<Vec<u16>>,
    /// The number of the round that is handed out next.
    round: usize,
}

/// The remainder of ⌊(2k + 1)·W / 2w⌋. From one turn to the next the quotient and the remainder of
/// 2W / 2w are added, so nothing is divided.
struct Turn {
    rest: u32,
    quotient: u32,
    remainder: u32,
    divisor: u32,
}

impl Calendar {
    /// Of backends of these weights, none of them zero, in the order in which they share a round.
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        let heaviest = weights.clone().max().unwrap_or(1);
        let lightest = weights.clone().min().unwrap_or(1);
        // The longest gap, rounded up, and one for the round being worked on.
        let ring = (heaviest.div_ceil(lightest) as usize + 1).next_power_of_two();
        let mut rounds = vec![Vec::new(); ring];
        let turns = (0u16..)
            .zip(weights)
            .map(|(backend, weight)| {
                let divisor = 2 * weight;
                rounds[(heaviest / divisor) as usize & (ring - 1)].push(backend);
                Turn {
                    rest: heaviest % divisor,
                    quotient: heaviest / weight,
                    remainder: 2 * heaviest % divisor,
                    divisor,
                }
            })
            .collect();
        Self {
            turns,
            rounds,
            round: 0,
        }
    }

    /// Puts the backends that have a turn in the next round into `turns`, in their order.
    pub(super) fn next_round(&mut self, turns: &mut Vec<u16>) {
        let mask = self.rounds.len() - 1;
        turns.clear();
        std::mem::swap(turns, &mut self.rounds[self.round & mask]);
        for backend in turns.iter() {
            let turn = &mut self.turns[usize::from(*backend)];
            let mut next = self.round + turn.quotient as usize;
            turn.rest += turn.remainder;
            if turn.rest >= turn.divisor {
                turn.rest -= turn.divisor;
                next += 1;
            }
            self.rounds[next & mask].push(*backend);
        }
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first_turns(weights: &[u32], count: usize) -> Vec<u16> {
        let mut calendar = Calendar::new(weights.iter().copied());
        let (mut all, mut round) = (Vec::new(), Vec::new());
        while all.len() < count {
            calendar.next_round(&mut round);
            all.extend_from_slice(&round);
        }
        all.truncate(count);
        all
    }

    #[test]
    fn equal_backends_take_turns_in_order() {
        assert_eq!(first_turns(&[3, 3, 3], 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_heavy_backend_has_its_turns_between_those_of_the_light() {
        assert_eq!(first_turns(&[4, 1, 1], 6), [0, 0, 1, 2, 0, 0]);
    }

    proptest! {
        #[test]
        fn turns_fall_in_the_rounds_that_the_formula_names(
            weights in proptest::collection::vec(1u32..=200, 1..20),
        ) {
            let mut calendar = Calendar::new(weights.iter().copied());
            let heaviest = u64::from(*weights.iter().max().unwrap());
            let mut taken = vec![0u64; weights.len()];
            let mut turns = Vec::new();
            for round in 0..300 {
                calendar.next_round(&mut turns);
                for backend in &turns {
                    let backend = usize::from(*backend);
                    let named = (2 * taken[backend] + 1) * heaviest / (2 * u64::from(weights[backend]));
                    prop_assert_eq!(named, round);
                    taken[backend] += 1;
                }
            }
        }
    }
}
