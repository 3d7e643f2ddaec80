//! Rules for which snapshots to keep: snapshots, rules and the time in; for each snapshot whether it stays, and why, out.
//!
//! Pure, so that it can be tried against a plain model. [`decide`] never removes on doubt:
//!
//! - Rules apply to each source (a host and a path) by itself, so that one that is taken often does not push out another.
//! - Snapshots are ordered by number, which the clock has no part in. A snapshot that is dated after now was taken with a
//!   wrong clock (or now is wrong): no rule removes it, and it takes the place of none that a rule keeps.
//! - What is pinned stays. So does what may be pinned, because its labels cannot be read.
//! - Of a period (an hour, a day …, as the local calendar has it) the snapshot with the highest number is kept.
//! - `within` counts back from the newest snapshot of the source, not from now: if no snapshots are taken for a while, the
//!   ones that are there do not vanish. Only `older_than` counts back from now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::object::{Tag, display_bytes};

/// A snapshot, as far as rules look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its number.
    pub number: u64,
    /// When it was begun.
    pub time: Timestamp,
    /// Where it was taken, and of what.
    pub source: Source,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Whether it stays whatever the rules say.
    pub protection: Option<Protection>,
}

/// Why no rule removes a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// It is pinned.
    Pinned,
    /// Its labels cannot be read, for this reason, so it may be pinned.
    Unknown(String),
}

/// A host, and a path on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Source {
    /// The host.
    pub host: Vec<u8>,
    /// The absolute path.
    pub path: Vec<u8>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", display_bytes(&self.host), display_bytes(&self.path))
    }
}

/// Which sources rules apply to: this path, on this host or on any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFilter {
    /// The host; any if there is none.
    pub host: Option<Vec<u8>>,
    /// The absolute path.
    pub path: Vec<u8>,
}

impl SourceFilter {
    /// Whether a source is meant.
    pub fn admits(&self, source: &Source) -> bool {
        self.path == source.path && self.host.as_ref().is_none_or(|host| *host == source.host)
    }
}

/// What rules are applied to at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupBy {
    /// The snapshots of one host and path.
    #[default]
    Source,
    /// All snapshots together.
    None,
}

/// A stretch of the local calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// An hour. The hour that comes twice when the clocks are put back is two.
    Hour,
    /// A day.
    Day,
    /// A week as ISO 8601 has it: from Monday, and of the year that its Thursday is in.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// The name of the period that a moment is in.
    fn name(self, time: &Zoned) -> String {
        let format = match self {
            Self::Hour => "hour %Y-%m-%d %H:00%:z",
            Self::Day => "day %Y-%m-%d",
            Self::Week => "week %G-W%V",
            Self::Month => "month %Y-%m",
            Self::Year => "year %Y",
        };
        time.strftime(format).to_string()
    }
}

/// A length of time on the calendar: `30d`, `1y6m`, `36h`.
#[derive(Debug, Clone)]
pub struct Age {
    text: String,
    span: Span,
}

impl FromStr for Age {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a length of time is like 36h, 30d, 8w, 6m (months), 2y or 1y6m, and not nothing";
        let mut span = Span::new();
        let (mut seen, mut sum, mut rest) = (Vec::new(), 0, text);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: i64 = rest[..digits].parse().map_err(|_| WRONG)?;
            let unit = rest[digits..].chars().next().filter(|unit| !seen.contains(unit)).ok_or(WRONG)?;
            let longer = match unit {
                'h' => span.try_hours(number),
                'd' => span.try_days(number),
                'w' => span.try_weeks(number),
                'm' => span.try_months(number),
                'y' => span.try_years(number),
                _ => return Err(WRONG),
            };
            span = longer.map_err(|_| "the length of time is too long")?;
            seen.push(unit);
            sum += number;
            rest = &rest[digits + 1..];
        }
        if sum == 0 { Err(WRONG) } else { Ok(Self { text: text.to_string(), span }) }
    }
}

impl Age {
    /// The moment so long before another one; nothing if that is before the calendar begins.
    pub fn before(&self, time: &Zoned) -> Option<Timestamp> {
        time.checked_sub(self.span).ok().map(|time| time.timestamp())
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The rules. A snapshot that one of them keeps stays; what none keeps goes, unless it is too young for that.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Keep so many of the highest numbers.
    pub last: Option<u64>,
    /// Keep the newest of each of so many periods that have one.
    pub periods: BTreeMap<Period, u64>,
    /// Keep what is not so much older than the newest.
    pub within: Option<Age>,
    /// Keep what has one of these tags.
    pub tags: BTreeSet<Tag>,
    /// Remove only what is so much older than now.
    pub older_than: Option<Age>,
    /// What the rules are applied to at a time.
    pub group_by: GroupBy,
    /// The sources that they apply to; all if there is none here.
    pub sources: Vec<SourceFilter>,
}

impl Policy {
    /// Whether a snapshot of the source may be removed.
    pub fn concerns(&self, source: &Source) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|filter| filter.admits(source))
    }

    /// What rules are applied to together with the snapshots of this source.
    pub fn group<'s>(&self, source: &'s Source) -> Option<&'s Source> {
        (self.group_by == GroupBy::Source).then_some(source)
    }
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its number.
    pub number: u64,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Why a snapshot stays or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It stays: it is one of the last.
    Last,
    /// It stays: it is the newest of this period.
    NewestOf(String),
    /// It stays: it is within this time of the newest one, whose number follows.
    Within(String, u64),
    /// It stays: it has this tag.
    Tagged(Tag),
    /// It stays: it is not so old yet.
    NotOlder(String),
    /// It stays: it is pinned.
    Pinned,
    /// It stays: its labels cannot be read, for this reason.
    LabelsUnreadable(String),
    /// It stays: it is dated after now.
    InFuture,
    /// It stays: it is of a source that the rules are not for.
    OtherSource,
    /// It stays: its ref cannot be read.
    Unreadable,
    /// It stays: it was not named.
    NotNamed,
    /// It stays: no rule keeps it, but it was not there, or kept, when the prune was planned.
    NotPlanned,
    /// It goes: it was named.
    Named,
    /// It goes: no rule keeps it.
    NoRule,
    /// It goes: it is older than this, and no rule keeps it.
    Older(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::NewestOf(period) => f.write_str(period),
            Self::Within(age, newest) => write!(f, "within {age} of snapshot {newest}"),
            Self::Tagged(tag) => write!(f, "tag {tag}"),
            Self::NotOlder(age) => write!(f, "not older than {age}"),
            Self::Pinned => f.write_str("pinned"),
            Self::LabelsUnreadable(_) => f.write_str("may be pinned: its labels cannot be read"),
            Self::InFuture => f.write_str("dated in the future"),
            Self::OtherSource => f.write_str("of another source"),
            Self::Unreadable => f.write_str("cannot be read"),
            Self::NotNamed => f.write_str("not named"),
            Self::NotPlanned => f.write_str("came to be removed after the prune was planned"),
            Self::Named => f.write_str("named"),
            Self::NoRule => f.write_str("no rule keeps it"),
            Self::Older(age) => write!(f, "older than {age}"),
        }
    }
}

/// Decides on each snapshot, in the order of their numbers. Periods and lengths of time are those of the zone of `now`.
pub fn decide(subjects: &[Subject], policy: &Policy, now: &Zoned) -> Vec<Decision> {
    let mut groups: BTreeMap<Option<&Source>, Vec<&Subject>> = BTreeMap::new();
    let mut decisions = Vec::with_capacity(subjects.len());
    for subject in subjects {
        if policy.concerns(&subject.source) {
            groups.entry(policy.group(&subject.source)).or_default().push(subject);
        } else {
            decisions.push(Decision { number: subject.number, keep: true, reasons: vec![Reason::OtherSource] });
        }
    }
    for mut group in groups.into_values() {
        group.sort_unstable_by_key(|subject| std::cmp::Reverse(subject.number));
        decide_group(&group, policy, now, &mut decisions);
    }
    decisions.sort_unstable_by_key(|decision| decision.number);
    decisions
}

/// Decides on the snapshots of one group, the newest first.
fn decide_group(group: &[&Subject], policy: &Policy, now: &Zoned, decisions: &mut Vec<Decision>) {
    let oldest_young = policy.older_than.as_ref().map(|age| (age, age.before(now)));
    let mut slots = Slots::new(policy, now.time_zone());
    for subject in group {
        let mut reasons = match &subject.protection {
            Some(Protection::Pinned) => vec![Reason::Pinned],
            Some(Protection::Unknown(reason)) => vec![Reason::LabelsUnreadable(reason.clone())],
            None => Vec::new(),
        };
        if subject.time > now.timestamp() {
            reasons.push(Reason::InFuture);
        } else {
            slots.take(subject, &mut reasons);
            if let Some((age, limit)) = &oldest_young
                && limit.is_none_or(|limit| subject.time >= limit)
            {
                reasons.push(Reason::NotOlder(age.to_string()));
            }
        }
        let keep = !reasons.is_empty();
        if !keep {
            reasons.push(match &policy.older_than {
                Some(age) => Reason::Older(age.to_string()),
                None => Reason::NoRule,
            });
        }
        decisions.push(Decision { number: subject.number, keep, reasons });
    }
}

/// What the rules that count have left to give.
struct Slots<'p> {
    policy: &'p Policy,
    zone: &'p TimeZone,
    last: u64,
    periods: BTreeMap<Period, BTreeSet<String>>,
    /// The newest snapshot, and the oldest moment that is near enough to it.
    within: Option<(u64, Option<Timestamp>)>,
}

impl<'p> Slots<'p> {
    fn new(policy: &'p Policy, zone: &'p TimeZone) -> Self {
        Self { policy, zone, last: policy.last.unwrap_or(0), periods: BTreeMap::new(), within: None }
    }

    /// Gives what there is to the next snapshot, and says what that was.
    fn take(&mut self, subject: &Subject, reasons: &mut Vec<Reason>) {
        if self.last > 0 {
            self.last -= 1;
            reasons.push(Reason::Last);
        }
        let time = subject.time.to_zoned(self.zone.clone());
        for (period, most) in &self.policy.periods {
            let seen = self.periods.entry(*period).or_default();
            let name = period.name(&time);
            // A clock that went back may lead to a period that was met before.
            if (seen.len() as u64) < *most && seen.insert(name.clone()) {
                reasons.push(Reason::NewestOf(name));
            }
        }
        if let Some(age) = &self.policy.within {
            let (newest, limit) = *self.within.get_or_insert_with(|| (subject.number, age.before(&time)));
            if limit.is_none_or(|limit| subject.time >= limit) {
                reasons.push(Reason::Within(age.to_string(), newest));
            }
        }
        reasons.extend(subject.tags.intersection(&self.policy.tags).cloned().map(Reason::Tagged));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Central Europe: the clocks go forward on 31 March 2024 and back on 27 October 2024, at 1:00 UTC.
    fn zone() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn now() -> Zoned {
        at("2025-01-15T12:00:00Z").to_zoned(zone())
    }

    fn tag(text: &str) -> Tag {
        Tag::new(text).unwrap()
    }

    fn age(text: &str) -> Age {
        text.parse().unwrap()
    }

    fn subject(number: u64, time: &str) -> Subject {
        let source = Source { host: b"desk".into(), path: b"/home".into() };
        Subject { number, time: at(time), source, tags: BTreeSet::new(), protection: None }
    }

    fn subjects(times: &[&str]) -> Vec<Subject> {
        (1..).zip(times).map(|(number, time)| subject(number, time)).collect()
    }

    fn period(period: Period, most: u64) -> Policy {
        Policy { periods: [(period, most)].into(), ..Policy::default() }
    }

    fn kept(subjects: &[Subject], policy: &Policy) -> Vec<u64> {
        decide(subjects, policy, &now()).into_iter().filter(|one| one.keep).map(|one| one.number).collect()
    }

    #[test]
    fn the_newest_of_each_period_stays_and_says_why() {
        let subjects = subjects(&[
            "2024-12-30T10:00:00Z",
            "2024-12-31T10:00:00Z",
            "2024-12-31T20:00:00Z",
            "2025-01-01T10:00:00Z",
            "2025-01-01T10:10:00Z",
        ]);
        assert_eq!(kept(&subjects, &period(Period::Hour, 2)), [3, 5]);
        assert_eq!(kept(&subjects, &period(Period::Day, 2)), [3, 5]);
        assert_eq!(kept(&subjects, &period(Period::Day, 9)), [1, 3, 5]);
        // The ISO week 2025-W01 begins in the old year.
        assert_eq!(kept(&subjects, &period(Period::Week, 9)), [5]);
        assert_eq!(kept(&subjects, &period(Period::Month, 9)), [3, 5]);
        assert_eq!(kept(&subjects, &period(Period::Year, 1)), [5]);
        let policy = Policy { last: Some(1), tags: [tag("x")].into(), ..period(Period::Day, 2) };
        let mut tagged = subjects;
        tagged[0].tags = [tag("x"), tag("y")].into();
        let reasons = |number: usize| {
            let decisions = decide(&tagged, &policy, &now());
            decisions[number - 1].reasons.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reasons(1), ["tag x"]);
        assert_eq!(reasons(2), ["no rule keeps it"]);
        assert_eq!(reasons(3), ["day 2024-12-31"]);
        assert_eq!(reasons(5), ["last", "day 2025-01-01"]);
    }

    #[test]
    fn periods_are_those_of_the_local_calendar() {
        // 23:30 UTC is the next day, month and year in Central Europe.
        let subjects = subjects(&["2023-12-31T22:30:00Z", "2023-12-31T23:30:00Z"]);
        for of in [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year] {
            assert_eq!(kept(&subjects, &period(of, 9)), [1, 2], "{of:?}");
        }
        let utc = now().with_time_zone(TimeZone::UTC);
        let keep: Vec<bool> = decide(&subjects, &period(Period::Year, 9), &utc).iter().map(|one| one.keep).collect();
        assert_eq!(keep, [false, true]);
    }

    #[test]
    fn weeks_are_those_of_iso_8601() {
        // 2021-01-03 is a Sunday of 2020-W53, and so is 2020-12-28, a Monday.
        let first = subjects(&["2020-12-27T12:00:00Z", "2020-12-28T12:00:00Z", "2021-01-03T12:00:00Z"]);
        assert_eq!(kept(&first, &period(Period::Week, 9)), [1, 3]);
        let next = subjects(&["2021-01-03T12:00:00Z", "2021-01-04T12:00:00Z"]);
        assert_eq!(kept(&next, &period(Period::Week, 9)), [1, 2]);
        assert_eq!(Period::Week.name(&at("2021-01-03T12:00:00Z").to_zoned(zone())), "week 2020-W53");
    }

    #[test]
    fn an_hour_that_comes_twice_is_two_and_one_that_is_left_out_is_none() {
        // 2:30 summer time, 2:30 winter time, and again.
        let back = subjects(&["2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "2024-10-27T01:45:00Z"]);
        assert_eq!(kept(&back, &period(Period::Hour, 9)), [1, 3]);
        assert_eq!(kept(&back, &period(Period::Day, 9)), [3]);
        // From 1:59 to 3:00.
        let forward = subjects(&["2024-03-31T00:59:00Z", "2024-03-31T01:00:00Z"]);
        assert_eq!(kept(&forward, &period(Period::Hour, 9)), [1, 2]);
        assert_eq!(Period::Hour.name(&forward[1].time.to_zoned(zone())), "hour 2024-03-31 03:00+02:00");
    }

    #[test]
    fn days_count_from_the_same_time_of_day_and_hours_do_not() {
        // From noon on the day after the change, a day back is noon, which is 25 hours.
        let times = subjects(&["2024-10-26T09:59:59Z", "2024-10-26T10:00:00Z", "2024-10-27T11:00:00Z"]);
        let within = |text| Policy { within: Some(age(text)), ..Policy::default() };
        assert_eq!(kept(&times, &within("1d")), [2, 3]);
        assert_eq!(kept(&times, &within("24h")), [3]);
        assert_eq!(kept(&times, &within("25h")), [2, 3]);
        // A month before 31 March is the last day of February.
        let times = subjects(&["2024-02-29T10:59:59Z", "2024-02-29T11:00:00Z", "2024-03-31T10:00:00Z"]);
        assert_eq!(kept(&times, &within("1m")), [2, 3]);
        // Before the calendar begins: everything is within.
        assert_eq!(kept(&times, &within("19998y")), [1, 2, 3]);
    }

    #[test]
    fn within_counts_from_the_newest_and_older_than_from_now() {
        let old = subjects(&["2020-01-01T00:00:00Z", "2020-03-01T00:00:00Z", "2020-03-02T00:00:00Z"]);
        assert_eq!(kept(&old, &Policy { within: Some(age("7d")), ..Policy::default() }), [2, 3]);
        assert_eq!(kept(&old, &Policy { older_than: Some(age("90d")), ..Policy::default() }), [0; 0]);
        assert_eq!(kept(&old, &Policy { older_than: Some(age("90d")), last: Some(1), ..Policy::default() }), [3]);
        let young = subjects(&["2024-10-17T10:59:59Z", "2024-10-17T11:00:00Z", "2025-01-15T00:00:00Z"]);
        let decisions = decide(&young, &Policy { older_than: Some(age("90d")), ..Policy::default() }, &now());
        let texts: Vec<_> = decisions.iter().map(|one| (one.keep, one.reasons[0].to_string())).collect();
        let young = || (true, "not older than 90d".to_string());
        assert_eq!(texts, [(false, "older than 90d".to_string()), young(), young()]);
    }

    #[test]
    fn what_is_dated_in_the_future_stays_and_keeps_nothing_else() {
        let mut all = subjects(&["2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z", "2099-01-01T00:00:00Z"]);
        for policy in [
            Policy { last: Some(1), ..Policy::default() },
            period(Period::Day, 1),
            period(Period::Year, 1),
            Policy { within: Some(age("1h")), ..Policy::default() },
        ] {
            assert_eq!(kept(&all, &policy), [2, 3], "{policy:?}");
        }
        let older = Policy { older_than: Some(age("1d")), ..Policy::default() };
        assert_eq!(kept(&all, &older), [3]);
        // In the middle of the numbers, too; and what is of this very moment is not in the future.
        all[0].time = at("2098-01-01T00:00:00Z");
        all[1].time = now().timestamp();
        assert_eq!(kept(&all, &Policy { last: Some(9), ..Policy::default() }), [1, 2, 3]);
        let reasons = |number: usize| decide(&all, &older, &now())[number].reasons.clone();
        assert_eq!(reasons(0), [Reason::InFuture]);
        assert_eq!(reasons(1), [Reason::NotOlder("1d".into())]);
    }

    #[test]
    fn order_is_by_number_and_not_by_time() {
        let times = subjects(&["2025-01-10T00:00:00Z", "2025-01-03T00:00:00Z", "2025-01-03T12:00:00Z"]);
        assert_eq!(kept(&times, &Policy { last: Some(1), ..Policy::default() }), [3]);
        assert_eq!(kept(&times, &period(Period::Day, 1)), [3]);
        // A day that comes again after another one is still one.
        let times = subjects(&["2025-01-03T00:00:00Z", "2025-01-04T00:00:00Z", "2025-01-03T12:00:00Z"]);
        assert_eq!(kept(&times, &period(Period::Day, 9)), [2, 3]);
    }

    #[test]
    fn each_source_has_its_own_rules_to_itself() {
        let mut all = subjects(&["2025-01-01T00:00:00Z"; 6]);
        all[1].source.host = b"server".into();
        all[3].source.host = b"server".into();
        all[2].source.path = b"/srv".into();
        let last = Policy { last: Some(1), ..Policy::default() };
        assert_eq!(kept(&all, &last), [3, 4, 6]);
        assert_eq!(kept(&all, &Policy { group_by: GroupBy::None, ..last.clone() }), [6]);
        let only = |host: Option<&str>, path: &str| Policy {
            sources: vec![SourceFilter { host: host.map(Into::into), path: path.into() }],
            ..last.clone()
        };
        assert_eq!(kept(&all, &only(None, "/srv")), [1, 2, 3, 4, 5, 6]);
        assert_eq!(kept(&all, &only(None, "/home")), [3, 4, 6]);
        assert_eq!(kept(&all, &only(Some("server"), "/home")), [1, 3, 4, 5, 6]);
        assert_eq!(decide(&all, &only(None, "/srv"), &now())[0].reasons, [Reason::OtherSource]);
    }

    #[test]
    fn pins_protect_and_take_places_like_others() {
        let mut all = subjects(&["2025-01-01T00:00:00Z"; 4]);
        all[0].protection = Some(Protection::Pinned);
        all[1].protection = Some(Protection::Unknown("damaged".into()));
        all[3].protection = Some(Protection::Pinned);
        let policy = Policy { last: Some(1), ..Policy::default() };
        assert_eq!(kept(&all, &policy), [1, 2, 4]);
        let decisions = decide(&all, &policy, &now());
        assert_eq!(decisions[1].reasons, [Reason::LabelsUnreadable("damaged".into())]);
        assert_eq!(decisions[3].reasons, [Reason::Pinned, Reason::Last]);
    }

    #[test]
    fn lengths_of_time() {
        for good in ["36h", "30d", "8w", "6m", "2y", "1y6m", "6m1y", "0y1d", "1y2m3w4d5h"] {
            assert_eq!(age(good).to_string(), good);
        }
        for bad in [
            "",
            "0d",
            "0h0y",
            "d",
            "30",
            "30s",
            "-1d",
            "+1d",
            "1d1d",
            "1.5d",
            "30 d",
            "19999y",
            "99999999999999999999d",
            "1ä",
        ] {
            assert!(bad.parse::<Age>().is_err(), "{bad}");
        }
    }

    /// What a period is, said in another way.
    fn key(period: Period, time: Timestamp) -> (i16, i16, i8, i8, i32) {
        let time = time.to_zoned(zone());
        match period {
            Period::Hour => (time.year(), i16::from(time.month()), time.day(), time.hour(), time.offset().seconds()),
            Period::Day => (time.year(), i16::from(time.month()), time.day(), 0, 0),
            Period::Week => (time.date().iso_week_date().year(), time.date().iso_week_date().week().into(), 0, 0, 0),
            Period::Month => (time.year(), i16::from(time.month()), 0, 0, 0),
            Period::Year => (time.year(), 0, 0, 0, 0),
        }
    }

    /// The rules as one would say them, each for one snapshot by itself, however slow.
    fn stays(one: &Subject, all: &[Subject], policy: &Policy, now: &Zoned) -> bool {
        if one.protection.is_some() || !policy.concerns(&one.source) || one.time > now.timestamp() {
            return true;
        }
        let peers = || {
            let same = |other: &&Subject| policy.group_by == GroupBy::None || other.source == one.source;
            all.iter().filter(same).filter(|other| policy.concerns(&other.source) && other.time <= now.timestamp())
        };
        let newer = || peers().filter(|other| other.number > one.number);
        let by_period = |(period, most): (&Period, &u64)| {
            let keys: BTreeSet<_> = newer().map(|other| key(*period, other.time)).collect();
            !keys.contains(&key(*period, one.time)) && (keys.len() as u64) < *most
        };
        let newest = peers().max_by_key(|other| other.number).unwrap_or(one);
        let from = |age: &Age, time: Timestamp| time.to_zoned(zone()).checked_sub(age.span).unwrap().timestamp();
        policy.last.is_some_and(|most| (newer().count() as u64) < most)
            || policy.periods.iter().any(by_period)
            || policy.within.as_ref().is_some_and(|age| one.time >= from(age, newest.time))
            || policy.older_than.as_ref().is_some_and(|age| one.time >= from(age, now.timestamp()))
            || one.tags.iter().any(|tag| policy.tags.contains(tag))
    }

    fn any_subject() -> impl Strategy<Value = Subject> {
        // Around both changes of the clocks, the turn of the year, over two years, and after now.
        let now = now().timestamp().as_second();
        let time = prop_oneof![
            3 => now - 2 * 366 * 86_400..now,
            2 => now - 86_400..now + 86_400,
            2 => 1_711_843_200_i64 - 9000..1_711_843_200 + 9000,
            2 => 1_729_990_800_i64 - 9000..1_729_990_800 + 9000,
            2 => 1_735_689_600_i64 - 4 * 86_400..1_735_689_600 + 4 * 86_400,
            1 => Just(now),
        ];
        let source = (0..2_usize, 0..2_usize).prop_map(|(host, path)| Source {
            host: [b"desk".to_vec(), b"server".to_vec()][host].clone(),
            path: [b"/home".to_vec(), b"/srv".to_vec()][path].clone(),
        });
        let protection = prop_oneof![8 => Just(None), 1 => Just(Some(Protection::Pinned)), 1 => Just(Some(Protection::Unknown("x".into())))];
        (time, source, proptest::bool::weighted(0.2), protection).prop_map(|(time, source, tagged, protection)| {
            Subject {
                number: 0,
                time: Timestamp::from_second(time).unwrap(),
                source,
                tags: tagged.then(|| tag("x")).into_iter().collect(),
                protection,
            }
        })
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        let few = || proptest::option::weighted(0.3, 1..6_u64);
        let age = || {
            let text = (1..40_u32, prop_oneof![Just('h'), Just('d'), Just('w'), Just('m'), Just('y')]);
            proptest::option::weighted(0.3, text.prop_map(|(number, unit)| age(&format!("{number}{unit}"))))
        };
        let periods = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];
        let periods = proptest::array::uniform5(few()).prop_map(move |most| {
            periods.into_iter().zip(most).filter_map(|(period, most)| Some((period, most?))).collect()
        });
        let sources = prop_oneof![
            3 => Just(Vec::new()),
            1 => Just(vec![SourceFilter { host: None, path: b"/home".into() }]),
            1 => Just(vec![SourceFilter { host: Some(b"desk".into()), path: b"/srv".into() }]),
        ];
        let group_by = prop_oneof![Just(GroupBy::Source), Just(GroupBy::None)];
        (few(), periods, age(), age(), any::<bool>(), group_by, sources).prop_map(
            |(last, periods, within, older_than, by_tag, group_by, sources)| Policy {
                last,
                periods,
                within,
                tags: by_tag.then(|| tag("x")).into_iter().collect(),
                older_than,
                group_by,
                sources,
            },
        )
    }

    proptest! {
        #[test]
        fn decisions_are_those_of_the_plain_model(
            mut all in proptest::collection::vec(any_subject(), 0..40),
            policy in any_policy(),
            gaps in proptest::collection::vec(1..3_u64, 40),
            order in any::<bool>(),
        ) {
            if order {
                all.sort_by_key(|one| one.time);
            }
            let mut number = 0;
            for (one, gap) in all.iter_mut().zip(gaps) {
                number += gap;
                one.number = number;
            }
            let decisions = decide(&all, &policy, &now());
            prop_assert_eq!(decisions.len(), all.len());
            for (one, decision) in all.iter().zip(&decisions) {
                prop_assert_eq!(decision.number, one.number);
                prop_assert_eq!(decision.keep, stays(one, &all, &policy, &now()), "{:?} of {:?}", decision, policy);
                prop_assert!(!decision.reasons.is_empty());
            }
        }
    }
}
