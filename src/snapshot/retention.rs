//! Which snapshots are kept: pure, from a list to the names to delete.

use std::collections::HashSet;

/// What a file in the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Ours, sound, with all servers.
    Good,
    /// Ours and sound, but a server is missing.
    Partial,
    /// Ours, by name and header, but damaged.
    Bad,
    /// Not ours, or not known to be: never deleted.
    Foreign,
}

/// A file in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in the directory.
    pub name: String,
    /// When its cut was made, in ns since 1970.
    pub time: u64,
    /// What it is.
    pub standing: Standing,
}

/// How many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many; the newest good one is kept even when this is 0.
    pub newest: usize,
    /// For each of the newest so many days (UTC) that have a good snapshot, the last one of the day.
    pub daily: usize,
    /// The same for weeks that begin on Monday (UTC).
    pub weekly: usize,
}

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 60 * 60 * SECOND;
const WEEK: u64 = 7 * DAY;

/// 1970-01-01 was a Thursday, three days into its week.
const INTO_WEEK: u64 = 3 * DAY;

/// The names to delete.
///
/// Days and weeks are counted among good files only. A partial file neither counts for a good one nor pushes one out: of
/// them the newest `keep.newest` stay. A bad one stays until as many good ones as are to be kept are newer, for whoever
/// wants to look at it or save its sound frames.
#[must_use]
pub fn to_delete(files: &[Candidate], keep: Keep) -> Vec<&str> {
    let newest_first = |standing| {
        let mut chosen: Vec<&Candidate> = files.iter().filter(|file| file.standing == standing).collect();
        // By name too, so that the answer does not depend on the order of the list.
        chosen.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
        chosen
    };
    let good = newest_first(Standing::Good);
    let newest = keep.newest.max(1);
    let mut kept: HashSet<&str> = good.iter().take(newest).map(|file| file.name.as_str()).collect();
    kept.extend(last_of_each(&good, keep.daily, |time| time / DAY));
    kept.extend(last_of_each(&good, keep.weekly, |time| time.saturating_add(INTO_WEEK) / WEEK));
    kept.extend(newest_first(Standing::Partial).iter().take(newest).map(|file| file.name.as_str()));
    let oldest = good.get(newest - 1).map(|file| file.time);
    let bad = newest_first(Standing::Bad).into_iter().filter(|file| oldest.is_none_or(|oldest| file.time >= oldest));
    kept.extend(bad.map(|file| file.name.as_str()));
    let ours = files.iter().filter(|file| file.standing != Standing::Foreign);
    ours.map(|file| file.name.as_str()).filter(|name| !kept.contains(name)).collect()
}

/// The first file of each of the first `count` periods, in a list that begins with the newest.
fn last_of_each<'a>(files: &[&'a Candidate], count: usize, period: impl Fn(u64) -> u64) -> Vec<&'a str> {
    let mut periods = Vec::new();
    let mut names = Vec::new();
    for file in files {
        let period = period(file.time);
        if periods.last() != Some(&period) {
            if periods.len() == count {
                break;
            }
            periods.push(period);
            names.push(file.name.as_str());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = DAY / 24;

    fn file(time: u64, standing: Standing) -> Candidate {
        Candidate { name: format!("{time:020}"), time, standing }
    }

    fn kept(files: &[Candidate], keep: Keep) -> Vec<u64> {
        let deleted = to_delete(files, keep);
        files.iter().filter(|file| !deleted.contains(&file.name.as_str())).map(|file| file.time / HOUR).collect()
    }

    #[test]
    fn the_newest_and_the_last_of_each_day_and_week_stay() {
        // Ten weeks, one each six hours, from a Monday on.
        let monday = 4 * DAY;
        let files: Vec<_> = (0..280).map(|i| file(monday + i * 6 * HOUR, Standing::Good)).collect();
        let hours = kept(&files, Keep { newest: 2, daily: 3, weekly: 2 });
        let last = 4 * 24 + 279 * 6;
        assert_eq!(hours, [last - 7 * 24, last - 48, last - 24, last - 6, last]);
        assert_eq!(kept(&files, Keep { newest: 0, daily: 0, weekly: 0 }), [last]);
    }

    #[test]
    fn a_damaged_or_partial_file_counts_for_no_good_one() {
        use Standing::{Bad, Foreign, Good, Partial};
        let standings = [Foreign, Bad, Partial, Good, Good, Bad, Partial, Partial, Bad];
        let files: Vec<_> = (1..).zip(standings).map(|(hour, standing)| file(hour * HOUR, standing)).collect();
        assert_eq!(kept(&files, Keep { newest: 1, daily: 0, weekly: 0 }), [1, 5, 6, 8, 9]);
        assert_eq!(kept(&files, Keep { newest: 2, daily: 0, weekly: 0 }), [1, 4, 5, 6, 7, 8, 9]);
        assert_eq!(kept(&files, Keep { newest: 9, daily: 0, weekly: 0 }), (1..=9).collect::<Vec<_>>());
    }

    fn standing() -> impl Strategy<Value = Standing> {
        prop_oneof![Just(Standing::Good), Just(Standing::Partial), Just(Standing::Bad), Just(Standing::Foreign)]
    }

    proptest! {
        #[test]
        fn the_newest_good_file_and_foreign_ones_always_stay(
            files in proptest::collection::vec((any::<u64>(), standing()), 0..40),
            newest in 0_usize..6, daily in 0_usize..6, weekly in 0_usize..6,
        ) {
            let files: Vec<_> = (0..).zip(files).map(|(i, (time, standing))| {
                Candidate { name: format!("{i}"), time, standing }
            }).collect();
            let keep = Keep { newest, daily, weekly };
            let deleted = to_delete(&files, keep);
            let stays = |file: &&Candidate| !deleted.contains(&file.name.as_str());
            let good = || files.iter().filter(|file| file.standing == Standing::Good);
            let newest_time = good().map(|file| file.time).max();
            prop_assert!(newest_time.is_none() || good().filter(stays).any(|file| Some(file.time) == newest_time));
            prop_assert!(files.iter().filter(|file| file.standing == Standing::Foreign).all(|file| stays(&file)));
            let kept = good().filter(stays).count();
            prop_assert!(kept >= newest.min(good().count()) && kept <= newest.max(1) + daily + weekly);
            // Deleting is done once: what is left stays.
            let left: Vec<_> = files.iter().filter(stays).cloned().collect();
            prop_assert!(to_delete(&left, keep).is_empty());
        }
    }
}
