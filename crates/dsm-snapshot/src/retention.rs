//! Which snapshots are kept: maps a list of files to the names to delete, without I/O.

use dsm_config::RetentionPolicy;
use std::collections::HashSet;

/// The kind of a file in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A sound snapshot of this system with all servers.
    Good,
    /// A sound snapshot of this system that lacks a server.
    Partial,
    /// A damaged snapshot of this system, by its name and header.
    Bad,
    /// Not known to be a snapshot of this system: never deleted.
    Foreign,
}

/// A file in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionCandidate {
    /// Its name in the directory.
    pub name: String,
    /// The time of its cut, in ns since 1970.
    pub time: u64,
    /// What it is.
    pub standing: Standing,
    /// The incarnation of each server's memory in it, in map order; 0 for a server that it lacks.
    pub incarnations: Vec<u64>,
}

/// What to do with the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The names to delete.
    pub deleted: Vec<&'a str>,
    /// The names that stay only because they are the last files of a memory that was lost or
    /// replaced.
    pub spared: Vec<&'a str>,
}

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 60 * 60 * SECOND;
const WEEK: u64 = 7 * DAY;

/// 1970-01-01 was a Thursday, three days into its week.
const INTO_WEEK: u64 = 3 * DAY;

/// Decides which files to delete.
///
/// Only good files count for days and weeks. A partial file never takes the place of a good one: of
/// the partial files, the newest `keep.newest` stay. A bad file stays until `keep.newest` good ones
/// are newer, so that its sound frames can be saved.
///
/// In addition, the last good file with an incarnation of a server's memory stays for `keep.lost`
/// days after its cut, and so does a later partial one: after a memory was lost and began with
/// zeros, the older files are the valuable ones.
#[must_use]
pub fn decide(files: &[RetentionCandidate], keep: RetentionPolicy) -> Decision<'_> {
    let newest_first_of = |standings: &[Standing]| {
        let mut chosen: Vec<&RetentionCandidate> = files
            .iter()
            .filter(|file| standings.contains(&file.standing))
            .collect();
        // By name, too, so that the decision does not depend on the order of the list.
        chosen.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
        chosen
    };
    let newest_first = |standing| newest_first_of(&[standing]);
    let good = newest_first(Standing::Good);
    let newest = keep.newest.max(1);
    let mut kept: HashSet<&str> = good
        .iter()
        .take(newest)
        .map(|file| file.name.as_str())
        .collect();
    kept.extend(last_of_each(&good, keep.daily, |time| time / DAY));
    kept.extend(last_of_each(&good, keep.weekly, |time| {
        time.saturating_add(INTO_WEEK) / WEEK
    }));
    kept.extend(
        newest_first(Standing::Partial)
            .iter()
            .take(newest)
            .map(|file| file.name.as_str()),
    );
    let oldest = good.get(newest - 1).map(|file| file.time);
    let bad = newest_first(Standing::Bad)
        .into_iter()
        .filter(|file| oldest.is_none_or(|oldest| file.time >= oldest));
    kept.extend(bad.map(|file| file.name.as_str()));
    let with_memory = newest_first_of(&[Standing::Good, Standing::Partial]);
    // The time of the second newest file: a clock that is wrong for one run does not age the
    // others.
    let now = with_memory
        .get(1)
        .or(with_memory.first())
        .map_or(0, |file| file.time);
    let days = (keep.lost as u64).saturating_mul(DAY);
    let young = last_of_each_memory(&with_memory)
        .into_iter()
        .filter(|file| now.saturating_sub(file.time) < days);
    let spared: Vec<&str> = young
        .map(|file| file.name.as_str())
        .filter(|name| !kept.contains(name))
        .collect();
    kept.extend(&spared);
    let ours = files
        .iter()
        .filter(|file| file.standing != Standing::Foreign);
    Decision {
        deleted: ours
            .map(|file| file.name.as_str())
            .filter(|name| !kept.contains(name))
            .collect(),
        spared,
    }
}

/// Of files in descending order of time: those with an incarnation of a server's memory that no
/// later file has, and the good ones with an incarnation that no later good file has.
fn last_of_each_memory<'a>(files: &[&'a RetentionCandidate]) -> Vec<&'a RetentionCandidate> {
    let (mut seen, mut seen_good) = (HashSet::new(), HashSet::new());
    let is_last = |file: &&&RetentionCandidate| {
        let adds = |seen: &mut HashSet<(usize, u64)>| {
            let memories = file
                .incarnations
                .iter()
                .copied()
                .enumerate()
                .filter(|(_, incarnation)| *incarnation != 0);
            memories.filter(|memory| seen.insert(*memory)).count() > 0
        };
        let (last, last_good) = (
            adds(&mut seen),
            file.standing == Standing::Good && adds(&mut seen_good),
        );
        last || last_good
    };
    files.iter().filter(is_last).copied().collect()
}

/// Of files in descending order of time: the last file of each of the latest `count` periods.
fn last_of_each<'a>(
    files: &[&'a RetentionCandidate],
    count: usize,
    period: impl Fn(u64) -> u64,
) -> Vec<&'a str> {
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

    fn keep_of(newest: usize, daily: usize, weekly: usize, lost: usize) -> RetentionPolicy {
        let mut keep = RetentionPolicy::default();
        (keep.newest, keep.daily, keep.weekly, keep.lost) = (newest, daily, weekly, lost);
        keep
    }

    fn file(time: u64, standing: Standing) -> RetentionCandidate {
        RetentionCandidate {
            name: format!("{time:020}"),
            time,
            standing,
            incarnations: vec![1, 2],
        }
    }

    fn kept(files: &[RetentionCandidate], keep: RetentionPolicy) -> Vec<u64> {
        let deleted = decide(files, keep).deleted;
        files
            .iter()
            .filter(|file| !deleted.contains(&file.name.as_str()))
            .map(|file| file.time / HOUR)
            .collect()
    }

    #[test]
    fn the_newest_and_the_last_of_each_day_and_week_stay() {
        // Ten weeks, one each six hours, from a Monday on.
        let monday = 4 * DAY;
        let files: Vec<_> = (0..280)
            .map(|i| file(monday + i * 6 * HOUR, Standing::Good))
            .collect();
        let hours = kept(&files, keep_of(2, 3, 2, 9));
        let last = 4 * 24 + 279 * 6;
        assert_eq!(hours, [last - 7 * 24, last - 48, last - 24, last - 6, last]);
        assert_eq!(kept(&files, RetentionPolicy::default()), [last]);
    }

    #[test]
    fn a_damaged_or_partial_file_counts_for_no_good_one() {
        use Standing::{Bad, Foreign, Good, Partial};
        let standings = [
            Foreign, Bad, Partial, Good, Good, Bad, Partial, Partial, Bad,
        ];
        let files: Vec<_> = (1..)
            .zip(standings)
            .map(|(hour, standing)| file(hour * HOUR, standing))
            .collect();
        let newest = |newest| keep_of(newest, 0, 0, 9);
        assert_eq!(kept(&files, newest(1)), [1, 5, 6, 8, 9]);
        assert_eq!(kept(&files, newest(2)), [1, 4, 5, 6, 7, 8, 9]);
        assert_eq!(kept(&files, newest(9)), (1..=9).collect::<Vec<_>>());
    }

    /// Files, one for each hour, with these incarnations; a file that lacks a server is partial,
    /// the others are good.
    fn of(incarnations: &[&[u64]]) -> Vec<RetentionCandidate> {
        let of_hour = |(hour, incarnations): (u64, &&[u64])| {
            let standing = if incarnations.contains(&0) {
                Standing::Partial
            } else {
                Standing::Good
            };
            RetentionCandidate {
                incarnations: incarnations.to_vec(),
                ..file(hour * HOUR, standing)
            }
        };
        (1..).zip(incarnations).map(of_hour).collect()
    }

    #[test]
    fn the_last_file_of_a_memory_that_was_lost_stays_for_its_days() {
        let keep = |lost| keep_of(2, 0, 0, lost);
        // The memory of server 1 begins again with zeros, and then that of server 0.
        let mut files = of(&[
            &[1, 2],
            &[1, 2],
            &[1, 3],
            &[1, 3],
            &[4, 3],
            &[4, 3],
            &[4, 3],
        ]);
        assert_eq!(kept(&files, keep(1)), [2, 4, 6, 7]);
        let Decision { deleted, spared } = decide(&files, keep(1));
        assert_eq!(
            (deleted.len(), spared),
            (3, vec![&*files[3].name, &*files[1].name])
        );
        assert_eq!(kept(&files, keep(0)), [6, 7]);
        // A clock that is ahead for one run does not age the others, and a day ends one day after
        // the cut.
        files.push(RetentionCandidate {
            incarnations: vec![4, 3],
            ..file(1000 * DAY, Standing::Good)
        });
        assert_eq!(kept(&files, keep(1)), [2, 4, 7, 24_000]);
        files.pop();
        files.extend([26, 27].map(|hour| RetentionCandidate {
            incarnations: vec![4, 3],
            ..file(hour * HOUR, Standing::Good)
        }));
        assert_eq!(kept(&files, keep(1)), [4, 26, 27]);
        files.push(RetentionCandidate {
            incarnations: vec![4, 3],
            ..file(28 * HOUR, Standing::Good)
        });
        assert_eq!(kept(&files, keep(1)), [4, 27, 28]);
        files.extend([29, 30].map(|hour| RetentionCandidate {
            incarnations: vec![4, 3],
            ..file(hour * HOUR, Standing::Good)
        }));
        assert_eq!(kept(&files, keep(1)), [29, 30]);
    }

    #[test]
    fn a_partial_file_is_spared_only_where_no_good_one_is_as_late() {
        let keep = keep_of(1, 0, 0, 1);
        // The second server is absent for a while and then returns with zeros; the first keeps its
        // memory.
        assert_eq!(
            kept(&of(&[&[1, 2], &[1, 0], &[1, 0], &[1, 3], &[1, 3]]), keep),
            [1, 3, 5]
        );
        // The first server loses its memory while only partial snapshots are taken.
        assert_eq!(
            kept(
                &of(&[&[1, 2], &[1, 0], &[1, 0], &[4, 0], &[4, 3], &[4, 3]]),
                keep
            ),
            [1, 3, 4, 6]
        );
    }

    fn standing() -> impl Strategy<Value = Standing> {
        prop_oneof![
            Just(Standing::Good),
            Just(Standing::Partial),
            Just(Standing::Bad),
            Just(Standing::Foreign)
        ]
    }

    proptest! {
        #[test]
        fn the_newest_good_file_and_foreign_ones_and_the_last_of_each_memory_always_stay(
            files in proptest::collection::vec((0..9 * DAY, standing(), 1..4_u64, 0..4_u64), 0..40),
            newest in 0_usize..6, daily in 0_usize..6, weekly in 0_usize..6, lost in 0_usize..12,
        ) {
            let files: Vec<_> = (0..).zip(files).map(|(i, (time, standing, first, second))| {
                RetentionCandidate { name: format!("{i}"), time, standing, incarnations: vec![first, second] }
            }).collect();
            let keep = keep_of(newest, daily, weekly, lost);
            let Decision { deleted, spared } = decide(&files, keep);
            let stays = |file: &&RetentionCandidate| !deleted.contains(&file.name.as_str());
            let good = || files.iter().filter(|file| file.standing == Standing::Good);
            let newest_time = good().map(|file| file.time).max();
            prop_assert!(newest_time.is_none() || good().filter(stays).any(|file| Some(file.time) == newest_time));
            prop_assert!(files.iter().filter(|file| file.standing == Standing::Foreign).all(|file| stays(&file)));
            let kept = good().filter(stays).count();
            prop_assert!(kept >= newest.min(good().count()) && kept <= newest.max(1) + daily + weekly + spared.len());
            // At most one good and one partial file for each memory.
            prop_assert!(spared.len() <= 2 * 7 && (lost > 0 || spared.is_empty()));
            if lost > 9 {
                let memory = |file: &RetentionCandidate, server: usize| file.incarnations[server];
                for server in 0..2 {
                    for lost in good() {
                        let last = good().filter(|file| memory(file, server) == memory(lost, server)).map(|file| file.time).max();
                        let of_it = |file: &RetentionCandidate| memory(file, server) == memory(lost, server) && Some(file.time) == last;
                        prop_assert!(memory(lost, server) == 0 || good().filter(stays).any(of_it));
                    }
                }
            }
            // A second decision about the rest deletes nothing.
            let left: Vec<_> = files.iter().filter(stays).cloned().collect();
            prop_assert!(decide(&left, keep).deleted.is_empty());
        }
    }
}
