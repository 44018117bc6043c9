//! Never two, never none: every interleaving of two processes, the messages between them, deaths, closed lines, timeouts
//! and lies. The machines are the real ones; what is modelled is what is around them.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::super::baton::Baton;
use super::*;

/// What is on its way to the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sent {
    Handover,
    Said(Word),
}

/// Where a process is. Each step that another process, or death, can come between is a place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// Predecessor: serving, as before everything. Successor: nothing has come yet.
    Before,
    /// Predecessor: it stands still, and has delivered nothing.
    Frozen,
    Waiting(Machine),
    Briefly(Machine),
    Reaching(Machine),
    Saying(Machine, Word),
    /// The baton is taken, and not marked.
    Taken(Word),
    /// The baton is marked; nothing is served yet.
    Marked(Word),
    Serving,
    /// It does not serve, and will not: it has released everything, or given up.
    Over,
    /// With what it was, in words of [`World::check`]: whether it had marked the baton.
    Dead {
        marked: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    predecessor: Place,
    successor: Place,
    baton: u64,
    to_successor: VecDeque<Sent>,
    to_predecessor: VecDeque<Word>,
    open: bool,
    /// How many more lies and lost messages there may be.
    mischief: u8,
    deaths: u8,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// That side does what it does next by itself.
    Go(Side),
    /// That side notices that nothing happens.
    Late(Side),
    Die(Side),
    /// The line breaks; what is in it can still be read.
    Close,
    /// The next message to that side is lost. (What was delivered is not: it is in the kernel, whole.)
    Lose(Side),
    /// That side is told this, and nobody said it.
    Lie(Side, Word),
    /// Whether a handover would be in time from now on.
    Budget(bool),
}

const SIDES: [Side; 2] = [Side::Predecessor, Side::Successor];
const WORDS: [Word; 5] = [Word::Accepted, Word::Refused, Word::Commit, Word::Committed, Word::Abort];

/// All that can happen.
fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Close, Step::Budget(false)];
    for side in SIDES {
        steps.extend([Step::Go(side), Step::Late(side), Step::Die(side), Step::Lose(side)]);
        steps.extend(WORDS.map(|word| Step::Lie(side, word)));
    }
    steps
}

impl World {
    fn new(mischief: u8, deaths: u8) -> Self {
        World {
            predecessor: Place::Before,
            successor: Place::Before,
            baton: u64::MAX,
            to_successor: VecDeque::new(),
            to_predecessor: VecDeque::new(),
            open: true,
            mischief,
            deaths,
        }
    }

    fn place(&mut self, side: Side) -> &mut Place {
        match side {
            Side::Predecessor => &mut self.predecessor,
            Side::Successor => &mut self.successor,
        }
    }

    fn is_dead(&self, side: Side) -> bool {
        let place = if side == Side::Predecessor { self.predecessor } else { self.successor };
        matches!(place, Place::Dead { .. })
    }

    fn send(&mut self, from: Side, word: Word) {
        match from {
            _ if !self.open => {}
            Side::Predecessor => self.to_successor.push_back(Sent::Said(word)),
            Side::Successor => self.to_predecessor.push_back(word),
        }
    }

    /// What a waiting side sees next, in the order in which the driver looks.
    fn next_event(&mut self, side: Side, machine: &Machine) -> Option<Event> {
        let (heard, other) = match side {
            Side::Predecessor => (self.to_predecessor.pop_front(), Side::Successor),
            Side::Successor => match self.to_successor.pop_front() {
                // It is delivered once.
                Some(Sent::Handover) => unreachable!(),
                Some(Sent::Said(word)) => (Some(word), Side::Predecessor),
                None => (None, Side::Predecessor),
            },
        };
        match heard {
            Some(word) => Some(Event::Heard(word)),
            None if self.is_dead(other) && !machine.dead => Some(Event::Dead),
            None if !self.open => Some(Event::Closed),
            None => None,
        }
    }

    fn act(mut machine: Machine, event: Event) -> Place {
        match machine.on(event) {
            Act::WaitBriefly => Place::Briefly(machine),
            Act::Say(word) => Place::Saying(machine, word),
            Act::Reach => Place::Reaching(machine),
            Act::Serve(word) => Place::Taken(word),
            Act::Yield => Place::Over,
        }
    }

    /// Does that; false where it cannot happen now. `baton` is a real one, which must say the same.
    fn step(&mut self, step: Step, baton: Option<&Baton>) -> bool {
        match step {
            Step::Go(side) => return self.go(side, baton),
            Step::Late(side) => match *self.place(side) {
                Place::Waiting(machine) | Place::Briefly(machine) => {
                    *self.place(side) = World::act(machine, Event::Late);
                }
                // A successor that nobody serves gives up. So it does when it was let in and nothing comes.
                Place::Before if side == Side::Successor => *self.place(side) = Place::Over,
                // The predecessor froze, and does not get it done in time: there is no baton yet.
                Place::Frozen => *self.place(side) = Place::Before,
                _ => return false,
            },
            Step::Die(side) => {
                if self.deaths == 0 || self.is_dead(side) {
                    return false;
                }
                self.deaths -= 1;
                let marked = matches!(self.place(side), Place::Marked(_) | Place::Serving)
                    || side == Side::Predecessor && *self.place(side) == Place::Before;
                *self.place(side) = Place::Dead { marked };
                self.open = false;
            }
            Step::Close if !self.open => return false,
            Step::Close => self.open = false,
            Step::Lose(_) | Step::Lie(..) if self.mischief == 0 => return false,
            Step::Lose(side) => {
                match side {
                    Side::Predecessor if self.to_predecessor.is_empty() => return false,
                    Side::Predecessor => {
                        self.to_predecessor.pop_front();
                    }
                    Side::Successor if !matches!(self.to_successor.front(), Some(Sent::Said(_))) => return false,
                    Side::Successor => {
                        self.to_successor.pop_front();
                    }
                }
                self.mischief -= 1;
            }
            Step::Lie(side, word) => {
                if !self.open {
                    return false;
                }
                self.mischief -= 1;
                self.send(if side == Side::Predecessor { Side::Successor } else { Side::Predecessor }, word);
            }
            Step::Budget(within) => match &mut self.predecessor {
                Place::Waiting(machine) if machine.within != within => machine.within(within),
                _ => return false,
            },
        }
        true
    }

    fn go(&mut self, side: Side, baton: Option<&Baton>) -> bool {
        let place = *self.place(side);
        let next = match (place, side) {
            (Place::Before, Side::Predecessor) if self.open && self.baton == u64::MAX => Place::Frozen,
            (Place::Frozen, _) if !self.open => Place::Before,
            (Place::Frozen, _) => {
                self.baton = 1;
                self.to_successor.push_back(Sent::Handover);
                Place::Waiting(Machine::new(side))
            }
            (Place::Before, Side::Successor) => match self.to_successor.pop_front() {
                Some(Sent::Handover) => Place::Saying(Machine::new(side), Word::Accepted),
                // What comes before is another handover's, or a lie.
                Some(Sent::Said(_)) => Place::Over,
                None if !self.open => Place::Over,
                None => return false,
            },
            (Place::Saying(machine, word), _) => {
                self.send(side, word);
                Place::Waiting(machine)
            }
            (Place::Waiting(machine) | Place::Briefly(machine), _) => match self.next_event(side, &machine) {
                Some(event) => World::act(machine, event),
                None => return false,
            },
            (Place::Reaching(machine), _) => {
                let reach = match self.baton {
                    1 => Reach::Ours,
                    0 => Reach::Between,
                    _ => Reach::Theirs,
                };
                if let Some(baton) = baton {
                    assert_eq!(baton.reach().unwrap(), reach, "a real baton says otherwise");
                }
                self.baton = 0;
                World::act(machine, Event::Reached(reach))
            }
            (Place::Taken(word), _) => {
                if let Some(baton) = baton {
                    baton.mark().unwrap();
                }
                self.baton += 2;
                Place::Marked(word)
            }
            (Place::Marked(word), _) => {
                self.send(side, word);
                Place::Serving
            }
            (Place::Before | Place::Serving | Place::Over | Place::Dead { .. }, _) => return false,
        };
        *self.place(side) = next;
        if next == Place::Over && side == Side::Successor {
            self.open = false;
        }
        true
    }

    /// Never two.
    fn serving(&self) -> usize {
        let serves = |side| match (side, if side == Side::Predecessor { self.predecessor } else { self.successor }) {
            (_, Place::Serving) | (Side::Predecessor, Place::Before) => 1,
            _ => 0,
        };
        serves(Side::Predecessor) + serves(Side::Successor)
    }

    /// Lets everything that is alive come to its end, without further mischief: then one serves, or it was impossible.
    fn settles(mut self) {
        let began = format!("{self:?}");
        for round in 0.. {
            assert!(round < 200, "it never ends: {began}\n{self:?}");
            let went = SIDES.map(|side| self.step(Step::Go(side), None));
            assert!(self.serving() < 2, "two serve: {began}\n{self:?}");
            if went == [false; 2] && SIDES.map(|side| self.step(Step::Late(side), None)) == [false; 2] {
                break;
            }
        }
        let lost = match (self.predecessor, self.successor) {
            // It served, or had begun to: who dies then is gone as without a handover.
            (Place::Dead { marked: true }, _) | (_, Place::Dead { marked: true }) => true,
            // Nothing was delivered, or nobody is left to take it.
            (Place::Dead { .. }, Place::Over | Place::Dead { .. }) => true,
            _ => false,
        };
        assert!(self.serving() == 1 || lost, "nobody serves: {began}\n{self:?}");
    }
}

/// Every state that can be reached, and the end of each.
fn explore(mischief: u8, deaths: u8) -> usize {
    let mut seen = HashSet::new();
    let mut waiting = vec![World::new(mischief, deaths)];
    let steps = steps();
    while let Some(world) = waiting.pop() {
        assert!(world.serving() < 2, "two serve: {world:?}");
        world.clone().settles();
        for step in &steps {
            let mut next = world.clone();
            if next.step(*step, None) && !seen.contains(&next) {
                seen.insert(next.clone());
                waiting.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn never_two_and_never_none_in_every_interleaving() {
    assert!(explore(0, 0) > 50);
    assert!(explore(0, 1) > 200);
    assert!(explore(0, 2) > 300);
    assert!(explore(2, 1) > 5_000);
}

#[test]
fn it_is_the_rule_that_holds_it_and_not_the_words() {
    // No word is ever heard: both are only late.
    let mut world = World::new(u8::MAX, 0);
    for step in [Step::Go(Side::Predecessor), Step::Go(Side::Predecessor), Step::Go(Side::Successor)] {
        assert!(world.step(step, None));
    }
    for _ in 0..8 {
        for side in SIDES {
            while world.step(Step::Lose(side), None) {}
            let _ = world.step(Step::Late(side), None) || world.step(Step::Go(side), None);
        }
    }
    assert_eq!(world.serving(), 1);
    world.settles();
}

#[test]
fn over_budget_the_predecessor_goes_on() {
    let mut machine = Machine::new(Side::Predecessor);
    machine.within(false);
    assert_eq!(machine.on(Event::Heard(Word::Accepted)), Act::Reach);
    assert_eq!(machine.on(Event::Reached(Reach::Ours)), Act::Serve(Word::Abort));
}

#[test]
fn who_says_committed_and_has_not_taken_it_has_not() {
    let mut machine = Machine::new(Side::Predecessor);
    assert_eq!(machine.on(Event::Heard(Word::Accepted)), Act::Say(Word::Commit));
    assert_eq!(machine.on(Event::Heard(Word::Committed)), Act::Reach);
    assert_eq!(machine.on(Event::Reached(Reach::Ours)), Act::Serve(Word::Abort));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Longer runs than those that are all looked at, and with a real baton.
    #[test]
    fn with_a_real_baton(choices in proptest::collection::vec(any::<prop::sample::Index>(), 1..120)) {
        let baton = Baton::new().unwrap();
        let steps = steps();
        let mut world = World::new(6, 2);
        for choice in choices {
            world.step(*choice.get(&steps), Some(&baton));
            prop_assert!(world.serving() < 2, "two serve: {world:?}");
        }
        world.settles();
    }
}
