//! Repetitions among the last million packets of a run, where flows are not followed one by one.

/// Packets that are remembered.
const WINDOW: u32 = 1 << 20;

/// Which of the last packets have been seen: one bit each, 128 KiB however many flows there are.
#[derive(Debug, Clone)]
pub struct Recent {
    bits: Vec<u64>,
    /// The newest number seen.
    newest: Option<u32>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            bits: vec![0; WINDOW as usize / 64],
            newest: None,
        }
    }
}

impl Recent {
    /// Notes packet `number` (which may wrap). Says whether it has been seen before, as far as that is
    /// remembered. A number that jumps ahead forgets what it jumps over, in bounded time.
    #[inline]
    pub fn repeats(&mut self, number: u32) -> bool {
        let newest = self.newest.unwrap_or_else(|| number.wrapping_sub(1));
        let ahead = number.wrapping_sub(newest);
        if ahead < 1 << 31 {
            for step in 1..=ahead.min(WINDOW) {
                self.clear(number.wrapping_sub(ahead.min(WINDOW) - step));
            }
            if ahead > 0 {
                self.newest = Some(number);
                self.set(number);
                return false;
            }
        } else if newest.wrapping_sub(number) >= WINDOW {
            return false;
        }
        self.set(number)
    }

    fn clear(&mut self, number: u32) {
        let bit = number % WINDOW;
        self.bits[bit as usize / 64] &= !(1 << (bit % 64));
    }

    /// Sets a bit; says whether it was set.
    fn set(&mut self, number: u32) -> bool {
        let bit = number % WINDOW;
        let word = &mut self.bits[bit as usize / 64];
        let mask = 1 << (bit % 64);
        let was = *word & mask != 0;
        *word |= mask;
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn what_is_too_old_to_be_remembered_is_taken_for_new() {
        let mut recent = Recent::default();
        assert!(!recent.repeats(5));
        assert!(recent.repeats(5));
        assert!(!recent.repeats(5 + WINDOW));
        assert!(!recent.repeats(5));
        assert!(!recent.repeats(6));
        assert!(recent.repeats(6));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_perfect_memory(start: u32, steps in proptest::collection::vec(-300i64..400, 1..500)) {
            let (mut recent, mut memory, mut at) = (Recent::default(), HashSet::new(), i64::from(start));
            for step in steps {
                at += step;
                let number = at as u32;
                prop_assert_eq!(recent.repeats(number), !memory.insert(number));
            }
        }
    }
}
