//! Negotiation against an oracle that tries every version there is.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::compat::Reads;

/// Names of layouts that both sides may name; `u` stands in no list of layouts.
const LAYOUTS: [&str; 3] = ["l", "m", "u"];

fn term(node: &str, made_of: &str, oldest: u32, required: bool) -> Term {
    Term::parse(node, made_of, oldest, required).unwrap()
}

fn layout(name: &str, oldest: u32, newest: u32) -> Term {
    term("", &format!("{name}-v{newest}"), oldest, false)
}

fn terms(terms: impl IntoIterator<Item = Term>) -> Terms {
    Terms::from_iter(terms)
}

/// What becomes of a node, printed.
fn outcomes(agreement: &Agreement) -> Vec<String> {
    let faults = |how: &str, faults: &[Fault]| {
        let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
        format!("{how} {}", faults.join(" + "))
    };
    let outcomes = agreement.nodes.iter().map(|agreed| match &agreed.outcome {
        Outcome::Write(made_of) => format!("{}: write {made_of}", agreed.node),
        Outcome::Drop(why) => format!("{}: {}", agreed.node, faults("drop", why)),
        Outcome::Refuse(why) => format!("{}: {}", agreed.node, faults("refuse", why)),
    });
    outcomes.collect()
}

fn written(agreement: &Agreement, node: &str) -> Option<String> {
    agreement.nodes.iter().find(|agreed| agreed.node == node).and_then(|agreed| match &agreed.outcome {
        Outcome::Write(made_of) => Some(made_of.clone()),
        _ => None,
    })
}

#[test]
fn the_newest_version_that_both_know_is_written() {
    for (offer, accept, expected) in [
        ((1, 3), (2, 5), Some(3)),
        ((2, 5), (1, 3), Some(3)),
        ((1, 1), (1, 1), Some(1)),
        ((1, 3), (3, 9), Some(3)),
        ((0, u32::MAX), (0, u32::MAX), Some(u32::MAX)),
        ((0, u32::MAX), (7, 7), Some(7)),
        ((0, 0), (0, u32::MAX), Some(0)),
        ((1, 3), (4, 9), None),
    ] {
        let side = |(oldest, newest)| terms([term("n", &format!("o-v{newest}"), oldest, true)]);
        let agreement = negotiate(&side(offer), &side(accept));
        assert_eq!(written(&agreement, "n"), expected.map(|version| format!("o-v{version}")), "{offer:?} {accept:?}");
        assert_eq!(agreement.is_refused(), expected.is_none());
    }
}

#[test]
fn a_gap_is_not_bridged() {
    let ranges = |ranges: &[(u32, u32)]| {
        terms(ranges.iter().map(|(oldest, newest)| term("n", &format!("o-v{newest}"), *oldest, true)))
    };
    let (offer, accept) = (ranges(&[(7, 9), (1, 3)]), ranges(&[(10, 12), (5, 6), (2, 2)]));
    assert_eq!(outcomes(&negotiate(&offer, &accept)), ["n: write o-v2"]);
    assert_eq!(outcomes(&negotiate(&accept, &offer)), ["n: write o-v2"]);
    let accept = ranges(&[(10, 12), (4, 6)]);
    let older = "n: refuse version-older: found o-v9, expected o-v10..=v12";
    assert_eq!(outcomes(&negotiate(&offer, &accept)), [older]);
    let newer = "n: refuse version-newer: found o-v12, expected o-v7..=v9";
    assert_eq!(outcomes(&negotiate(&accept, &offer)), [newer]);
}

#[test]
fn what_neither_side_requires_is_dropped_and_what_either_requires_refuses() {
    for (offers, accepts, how) in
        [(false, false, "drop"), (true, false, "refuse"), (false, true, "refuse"), (true, true, "refuse")]
    {
        let offer = terms([term("n", "o-v2", 2, offers)]);
        let agreement = negotiate(&offer, &terms([term("n", "o-v1", 1, accepts)]));
        assert_eq!(outcomes(&agreement), [format!("n: {how} version-newer: found o-v2, expected o-v1")]);
        assert_eq!(agreement.is_refused(), how == "refuse");
    }
    let unknown = "component-unknown: found o-v2, expected a component that this reader knows";
    for (required, how) in [(false, "drop"), (true, "refuse")] {
        let agreement = negotiate(&terms([term("n", "o-v2", 1, required)]), &Terms::default());
        assert_eq!(outcomes(&agreement), [format!("n: {how} {unknown}")]);
    }
}

#[test]
fn what_only_the_successor_requires_is_missing_and_what_it_can_do_without_is_nothing() {
    let accept = terms([term("a", "a-v3", 1, true), term("b", "b-v1", 1, false), term("c", "c-v1;l-v1", 1, true)]);
    let agreement = negotiate(&terms([term("c", "c-v1;l-v1", 1, false)]), &accept);
    assert_eq!(outcomes(&agreement), ["a: refuse component-missing: expected a-v3", "c: write c-v1;l-v1"]);
    assert!(agreement.is_refused());
    assert_eq!(negotiate(&Terms::default(), &Terms::default()), Agreement::default());
}

#[test]
fn layouts_are_written_in_the_newest_version_that_both_know() {
    let offer = terms([layout("l", 1, 3), layout("m", 2, 2), term("n", "o-v1;l-v3;m-v2;u-v1", 1, true)]);
    let accept = |l, m| terms([layout("l", l, l), layout("m", 1, m), term("n", "o-v1;l-v1;m-v1;u-v1", 1, true)]);
    let agreement = negotiate(&offer, &accept(2, 5));
    assert_eq!(agreement.layouts, ["l-v2", "m-v2"]);
    assert_eq!(outcomes(&agreement), ["n: write o-v1;l-v2;m-v2;u-v1"]);
    // A layout that cannot be agreed on stays as it is by default, and is refused as what it is.
    let agreement = negotiate(&offer, &accept(4, 1));
    assert_eq!(agreement.layouts, [""; 0]);
    let why = "version-older: found l-v3, expected l-v4 + version-newer: found m-v2, expected m-v1";
    assert_eq!(outcomes(&agreement), [format!("n: refuse {why}")]);
    // What no side names as a layout must be the same.
    let other = terms([layout("l", 1, 3), layout("m", 2, 2), term("n", "o-v1;l-v3;m-v2;u-v2", 1, true)]);
    assert_eq!(outcomes(&negotiate(&offer, &other)), ["n: refuse version-older: found u-v1, expected u-v2"]);
}

#[test]
fn an_older_version_that_uses_less_is_written_where_the_newer_one_is_not_read() {
    let both = terms([term("n", "o-v2;l-v1", 2, true), term("n", "o-v1", 1, true), layout("l", 1, 1)]);
    let old = terms([term("n", "o-v1", 1, true)]);
    assert_eq!(outcomes(&negotiate(&both, &both)), ["n: write o-v2;l-v1"]);
    assert_eq!(outcomes(&negotiate(&both, &old)), ["n: write o-v1"]);
    assert_eq!(outcomes(&negotiate(&old, &both)), ["n: write o-v1"]);
    // Also where its layout is what stands in the way.
    let newer = terms([term("n", "o-v2;l-v2", 2, true), term("n", "o-v1", 1, true), layout("l", 2, 2)]);
    assert_eq!(outcomes(&negotiate(&newer, &both)), ["n: write o-v1"]);
}

#[test]
fn of_a_version_that_is_not_read_only_that_is_told() {
    let offer = terms([term("n", "o-v2;l-v1;m-v1", 2, true), layout("l", 1, 1)]);
    let accept = terms([term("n", "o-v3;u-v1", 3, true), layout("l", 1, 1), layout("m", 2, 2)]);
    let why = "version-older: found o-v2, expected o-v3 + version-older: found m-v1, expected m-v2";
    assert_eq!(outcomes(&negotiate(&offer, &accept)), [format!("n: refuse {why}")]);
    // A node that belongs to another owner is compared whole.
    let other = terms([term("n", "p-v3;u-v1", 3, true)]);
    let why = [
        "component-unknown: found o-v2, expected a component that this reader knows",
        "component-unknown: found l-v1, expected a component that this reader knows",
        "component-unknown: found m-v1, expected a component that this reader knows",
        "component-unlisted: found no such component here, expected p-v3",
        "component-unlisted: found no such component here, expected u-v1",
    ];
    assert_eq!(outcomes(&negotiate(&offer, &other)), [format!("n: refuse {}", why.join(" + "))]);
}

/// A layout of the same name as an owner does not read for it.
/// As the successor says it of a whole handover: each of what it takes by itself.
#[test]
fn an_owner_that_is_taken_too_vouches_for_no_layout_of_its_name() {
    let takes = terms([term("n", "a-v3;b-v1", 3, true), term("n", "b-v2", 2, true)]);
    let offer = terms([term("n", "a-v3;b-v2", 3, true)]);
    let says = ["n: refuse version-newer: found b-v2, expected b-v1"];
    assert_eq!(outcomes(&negotiate(&offer, &takes)), says);
    let lists = takes.lists("n");
    let takes: Vec<_> = lists.iter().map(made_of).collect();
    let found = CompatVec::parse_text("a-v3;b-v2").unwrap();
    assert_eq!(found.list().refused(&takes, &[]).len(), 1);
}

#[test]
fn a_layout_named_like_an_owner_takes_no_node() {
    let takes = [MadeOf::from(CompatList::new(Compat::new("o", 1), &[]))];
    let layouts = [Reads::since(1, Compat::new("o", 3))];
    let found = CompatList::new(Compat::new("o", 2), &[]);
    let faults: Vec<String> = found.refused(&takes, &layouts).into_iter().map(|d| Fault::from(d).to_string()).collect();
    assert_eq!(faults, ["version-newer: found o-v2, expected o-v1"]);
}

/// The oldest and the newest version, and in which versions they use which of [`LAYOUTS`].
type Range = (u32, u32, [Option<u32>; 3]);

/// A side: what it is made of by node, and the versions of layouts.
#[derive(Clone, Debug)]
struct Side {
    /// Ranges of versions of a node, its uses in that range, and whether it is required.
    nodes: BTreeMap<String, (Vec<Range>, bool)>,
    layouts: Vec<(usize, u32, u32)>,
}

impl Side {
    fn terms(&self) -> Terms {
        let nodes = self.nodes.iter().flat_map(|(node, (ranges, required))| {
            ranges.iter().map(move |(oldest, newest, uses)| term(node, &made(node, *newest, uses), *oldest, *required))
        });
        let layouts = self.layouts.iter().map(|(name, oldest, newest)| layout(LAYOUTS[*name], *oldest, *newest));
        terms(nodes.chain(layouts))
    }

    fn knows(&self, name: usize, version: u32) -> bool {
        self.layouts.iter().any(|(one, oldest, newest)| *one == name && (*oldest..=*newest).contains(&version))
    }
}

fn made(node: &str, version: u32, uses: &[Option<u32>; 3]) -> String {
    let uses = uses.iter().zip(LAYOUTS).filter_map(|(version, name)| Some(format!(";{name}-v{}", (*version)?)));
    format!("owner-of-{node}-v{version}{}", uses.collect::<String>())
}

/// Both sides name the layouts `l` and `m`, each in some versions; what their nodes use are some of those.
fn side() -> impl Strategy<Value = Side> {
    let uses = (prop::option::of(1..4_u32), prop::option::of(1..4_u32), prop::option::of(1..3_u32));
    // Each is a step from the one before it: versions, and the gap behind them.
    let ranges = prop::collection::vec((0..3_u32, 0..3_u32, uses.prop_map(|(l, m, u)| [l, m, u])), 1..4);
    let ranges = ranges.prop_map(|steps| {
        let mut next = 0;
        let ranges = steps.into_iter().map(|(gap, more, uses)| {
            let (oldest, newest) = (next + gap, next + gap + more);
            next = newest + 1;
            (oldest, newest, uses)
        });
        let mut ranges: Vec<_> = ranges.collect();
        ranges.reverse();
        ranges
    });
    let nodes = prop::collection::btree_map("[abc]", (ranges, any::<bool>()), 0..4);
    let range = || (0..4_u32, 0..3_u32);
    let layouts = (prop::collection::vec(range(), 1..3), prop::collection::vec(range(), 1..3));
    (nodes, layouts).prop_map(|(mut nodes, (l, m))| {
        let known = |ranges: &[(u32, u32)]| ranges.iter().flat_map(|(old, more)| *old..=old + more).collect::<Vec<_>>();
        let known = [known(&l), known(&m)];
        for (_, _, uses) in nodes.values_mut().flat_map(|(ranges, _)| ranges) {
            for (used, known) in uses.iter_mut().zip(&known) {
                *used = used.map(|number| known[number as usize % known.len()]);
            }
        }
        let ranges = |name, ranges: Vec<(u32, u32)>| ranges.into_iter().map(move |(old, more)| (name, old, old + more));
        Side { nodes, layouts: ranges(0, l).chain(ranges(1, m)).collect() }
    })
}

/// Every version that the offering side can write, from the newest on, each held against the other side as its plan does.
fn oracle(offer: &Side, accept: &Side, node: &str) -> Option<String> {
    let (ranges, _) = offer.nodes.get(node)?;
    let agreed = |name| (0..9).rev().find(|version| offer.knows(name, *version) && accept.knows(name, *version));
    let reads = accept.terms();
    let takes = reads.lists(node);
    let takes: Vec<MadeOf<'_>> = takes.iter().map(made_of).collect();
    (0..40).rev().find_map(|version| {
        let (_, _, uses) = ranges.iter().find(|(oldest, newest, _)| (*oldest..=*newest).contains(&version))?;
        let mut written = *uses;
        for (name, used) in written.iter_mut().enumerate() {
            *used = used.map(|used| agreed(name).unwrap_or(used));
        }
        let text = made(node, version, &written);
        let list = CompatVec::parse_text(&text).unwrap();
        list.list().refused(&takes, &reads.layouts()).is_empty().then(|| text.clone())
    })
}

proptest! {
    #[test]
    fn what_is_agreed_on_is_what_trying_everything_finds(offer in side(), accept in side()) {
        let agreement = negotiate(&offer.terms(), &accept.terms());
        prop_assert_eq!(&agreement, &negotiate(&offer.terms(), &accept.terms()));
        let mut names: Vec<&String> = offer.nodes.keys().collect();
        names.extend(accept.nodes.iter().filter(|(_, (_, required))| *required).map(|(name, _)| name));
        names.sort();
        names.dedup();
        prop_assert_eq!(agreement.nodes.iter().map(|agreed| &agreed.node).collect::<Vec<_>>(), names);
        for Agreed { node, outcome } in &agreement.nodes {
            let required = [&offer, &accept].iter().any(|side| side.nodes.get(node).is_some_and(|(_, required)| *required));
            match (oracle(&offer, &accept, node), outcome) {
                (Some(expected), Outcome::Write(found)) => prop_assert_eq!(found, &expected),
                (None, Outcome::Refuse(why)) => prop_assert!(required && !why.is_empty()),
                (None, Outcome::Drop(why)) => prop_assert!(!required && !why.is_empty()),
                (expected, _) => prop_assert!(false, "{:?} instead of {:?}", outcome, expected),
            }
        }
    }

    #[test]
    fn the_versions_are_the_same_whoever_offers(one in side(), other in side()) {
        let (there, back) = (negotiate(&one.terms(), &other.terms()), negotiate(&other.terms(), &one.terms()));
        let sorted = |agreement: &Agreement| {
            let mut layouts = agreement.layouts.clone();
            layouts.sort();
            layouts
        };
        prop_assert_eq!(sorted(&there), sorted(&back));
        for node in ["a", "b", "c"] {
            prop_assert_eq!(written(&there, node), written(&back, node));
        }
    }

    #[test]
    fn huge_ranges_cost_no_more(oldest: u32, newest: u32, other: u32) {
        let (oldest, newest) = (oldest.min(newest), oldest.max(newest));
        let offer = terms([term("n", &format!("o-v{newest}"), oldest, true), layout("l", oldest, newest)]);
        let accept = terms([term("n", &format!("o-v{other}"), 0, true), layout("l", 0, other)]);
        let common = (other >= oldest).then_some(newest.min(other));
        let agreement = negotiate(&offer, &accept);
        prop_assert_eq!(written(&agreement, "n"), common.map(|version| format!("o-v{version}")));
        prop_assert_eq!(agreement.layouts, Vec::from_iter(common.map(|version| format!("l-v{version}"))));
    }
}
