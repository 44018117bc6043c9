//! Who goes on: the decision between two processes, of which either may die, stall or lie at any moment.
//!
//! Pure: what happened goes in, what to do comes out. The predecessor (or the [keeper](super::Keeper) in its place) and the
//! successor run the same machine, from the moment when the handover was delivered, with the [baton](super::baton) beside
//! it. Before that only the predecessor can serve; there is no baton yet.
//!
//! The steps, the rule and its proof in words are in `docs/upgrade.md`. The baton is in the kernel: who can write to it has
//! been let in before (the same user, or one that was allowed), and could serve without asking anyway.

use super::baton::Reach;

/// What the two say to each other once the handover was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Word {
    /// Successor: everything is restored.
    Accepted,
    /// Successor: it will not do.
    Refused,
    /// Predecessor: take over.
    Commit,
    /// Successor: it has taken over.
    Committed,
    /// Predecessor: it goes on itself.
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// Who leaves, or keeps what was left.
    Predecessor,
    /// Who takes over.
    Successor,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Event {
    /// The other side said something.
    Heard(Word),
    /// The other side closed the line, or broke it.
    Closed,
    /// The process of the other side has ended.
    Dead,
    /// Nothing, for so long as one waits.
    Late,
    /// [`Act::Reach`] came to this.
    Reached(Reach),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Act {
    /// Wait for the next event, not for long: the other side has the baton and neither serves nor is dead.
    WaitBriefly,
    /// Say it, then wait.
    Say(Word),
    /// Reach for the baton.
    Reach,
    /// Mark the baton, say that word, and serve.
    Serve(Word),
    /// The other side serves.
    Yield,
}

/// Where one side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Machine {
    side: Side,
    /// The other side is dead.
    dead: bool,
    /// The word that was waited for has been said or heard.
    agreed: bool,
    /// What is accepted is too late.
    within: bool,
}

impl Machine {
    /// From the moment when everything is delivered; `within` says of an accepted handover whether it is in time.
    pub(super) const fn new(side: Side) -> Self {
        Machine { side, dead: false, agreed: false, within: true }
    }

    /// Whether the blackout is within its budget, as far as it is known. To be told before [`Event::Heard`].
    pub(super) const fn within(&mut self, within: bool) {
        self.within = within;
    }

    /// What to do after that.
    pub(super) const fn on(&mut self, event: Event) -> Act {
        match (self.side, event) {
            (Side::Predecessor, Event::Heard(Word::Accepted)) if !self.agreed && self.within => {
                self.agreed = true;
                Act::Say(Word::Commit)
            }
            (_, Event::Dead) => {
                self.dead = true;
                Act::Reach
            }
            (_, Event::Heard(_) | Event::Closed | Event::Late) => Act::Reach,
            (side, Event::Reached(Reach::Ours)) => Act::Serve(side.word()),
            (_, Event::Reached(Reach::Theirs)) => Act::Yield,
            (side, Event::Reached(Reach::Between)) if self.dead => Act::Serve(side.word()),
            (_, Event::Reached(Reach::Between)) => Act::WaitBriefly,
        }
    }
}

impl Side {
    /// What it says when it has the baton.
    const fn word(self) -> Word {
        match self {
            Side::Predecessor => Word::Abort,
            Side::Successor => Word::Committed,
        }
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
