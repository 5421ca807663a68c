//! Medians, ratios, and when a round counts. Pure functions.

/// How often a round that went wrong is repeated.
pub(crate) const REPEATS: u32 = 2;
/// How often one is repeated that others disturbed, which is nobody's fault who is measured.
pub(crate) const PATIENT_REPEATS: u32 = 60;

/// The middle value, or the mean of the two middle ones. `None`: there are no values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(middle - 1)?, upper))
}

/// How far the values are apart: largest minus smallest, as a part of the median. `None`: there
/// are no values, or their median is 0.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let largest = values.iter().copied().reduce(f64::max)?;
    let smallest = values.iter().copied().reduce(f64::min)?;
    median(values).filter(|median| *median > 0.0).map(|median| (largest - smallest) / median)
}

/// The median of the ratios of values of the same round, which a machine that became slower
/// between the rounds does not move. Rounds that one side lacks do not count.
pub(crate) fn paired_ratio(ours: &[(u32, f64)], theirs: &[(u32, f64)]) -> Option<f64> {
    let ratios: Vec<f64> = ours
        .iter()
        .filter_map(|(round, value)| {
            let (_, other) = theirs.iter().find(|(other, _)| other == round)?;
            (*other > 0.0).then(|| value / other)
        })
        .collect();
    median(&ratios)
}

/// What became of a round.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome<T> {
    /// It counts; before it so many attempts were void.
    Counts { value: T, void: u32 },
    /// Every attempt was void; why the last one was.
    Failed(String),
}

/// Why an attempt does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Void {
    /// It went wrong.
    Wrong(String),
    /// The machine had other things to do.
    Disturbed(String),
}

impl Void {
    /// In words.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Wrong(why) | Self::Disturbed(why) => why,
        }
    }
}

impl From<anyhow::Error> for Void {
    fn from(error: anyhow::Error) -> Self {
        Self::Wrong(format!("{error:#}"))
    }
}

/// Makes a round: an attempt that is void is repeated, at most [`REPEATS`] times if it went wrong, and at most
/// [`PATIENT_REPEATS`] times if it was disturbed.
pub(crate) fn attempts<T>(mut attempt: impl FnMut() -> Result<T, Void>) -> Outcome<T> {
    let (mut wrong, mut disturbed) = (0, 0);
    loop {
        let void = match attempt() {
            Ok(value) => return Outcome::Counts { value, void: wrong + disturbed },
            Err(void) => void,
        };
        let (count, most) = match void {
            Void::Wrong(_) => (&mut wrong, REPEATS),
            Void::Disturbed(_) => (&mut disturbed, PATIENT_REPEATS),
        };
        if *count == most {
            return Outcome::Failed(void.why().to_owned());
        }
        *count += 1;
    }
}

/// The order of `count` subjects in a round: each round begins with the next one, and goes on in
/// steps of another length, so that nobody is always the first, or always after the same one's
/// leavings.
pub(crate) fn order(count: usize, round: u32) -> Vec<usize> {
    let strides = strides(count);
    let start = round as usize;
    let stride = strides.get(start % strides.len().max(1)).copied().unwrap_or(1);
    (0..count).map(|place| (start + place * stride) % count).collect()
}

/// Steps that come to everybody in a round of `count`: 1, `count` - 1, and so on inwards.
fn strides(count: usize) -> Vec<usize> {
    let common = |a: usize, b: usize| {
        let (mut a, mut b) = (a, b);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (1..=count.div_ceil(2))
        .filter(|stride| common(*stride, count) == 1)
        .flat_map(|stride| [stride, count - stride])
        .filter(|stride| *stride > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn one_outlier_moves_the_spread_and_not_the_median() {
        let values = [100.0, 101.0, 99.0, 100.0, 1.0];
        assert_eq!(median(&values), Some(100.0));
        assert_eq!(spread(&values), Some(1.0));
        assert_eq!(spread(&[0.0, 0.0]), None);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine became twice as slow after the first round; the ratio did not change.
        let direct = [(0, 100.0), (1, 50.0), (2, 50.0)];
        let mux = [(0, 80.0), (1, 40.0), (2, 40.0)];
        assert_eq!(paired_ratio(&mux, &direct), Some(0.8));
        // A round that failed on one side does not count.
        assert_eq!(paired_ratio(&[(1, 10.0), (2, 40.0)], &[(0, 1.0), (2, 50.0)]), Some(0.8));
        assert_eq!(paired_ratio(&[(0, 1.0)], &[(1, 1.0)]), None);
        assert_eq!(paired_ratio(&[(0, 1.0)], &[(0, 0.0)]), None);
    }

    #[test]
    fn a_round_that_goes_wrong_is_repeated_twice_and_then_failed() {
        let wrong = |why: &str| Err(Void::Wrong(why.to_owned()));
        let mut results = [wrong("reset"), wrong("cut"), Ok(5)].into_iter();
        let outcome = attempts(|| results.next().unwrap());
        assert_eq!(outcome, Outcome::Counts { value: 5, void: 2 });

        let mut tries = 0;
        let outcome: Outcome<()> = attempts(|| {
            tries += 1;
            Err(Void::Wrong(format!("try {tries}")))
        });
        assert_eq!(outcome, Outcome::Failed("try 3".to_owned()));
        assert_eq!(tries, 3);
    }

    /// On a machine whose neighbours took more than a part of three attempts in a row, works were without a result.
    #[test]
    fn a_round_that_others_disturb_is_repeated_more_often() {
        let mut tries = 0;
        let outcome = attempts(|| {
            tries += 1;
            match tries {
                1..=10 => Err(Void::Disturbed("stolen".to_owned())),
                11 | 12 => Err(Void::Wrong("reset".to_owned())),
                _ => Ok(tries),
            }
        });
        assert_eq!(outcome, Outcome::Counts { value: 13, void: 12 });

        let mut tries = 0;
        let outcome: Outcome<()> = attempts(|| {
            tries += 1;
            Err(Void::Disturbed("stolen".to_owned()))
        });
        assert_eq!(outcome, Outcome::Failed("stolen".to_owned()));
        assert_eq!(tries, PATIENT_REPEATS + 1);
    }

    #[test]
    fn everybody_is_first_once_and_follows_somebody_else_each_round() {
        let firsts: Vec<usize> = (0..9).map(|round| order(9, round)[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for round in 0..12 {
            let mut all = order(4, round);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3]);
        }
        // Whom the second one of nine comes after, in five rounds.
        let before: Vec<Option<usize>> = (0..5)
            .map(|round| {
                let order = order(9, round);
                let place = order.iter().position(|index| *index == 1);
                place?.checked_sub(1).and_then(|before| order.get(before).copied())
            })
            .collect();
        assert_eq!(before, [Some(0), None, Some(8), Some(3), Some(6)]);
        assert_eq!((order(0, 1), order(1, 5)), (vec![], vec![0]));
    }
}
