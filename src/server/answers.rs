//! Answers of the driver, given to those who wait a turn's worth at a time.
//!
//! A waiter is a task of the serving lane. To wake it from the engine's thread costs a system call, and
//! a lane that is woken for one answer writes that one to its socket while the next is on its way. So
//! answers gather during a turn of the driver and go over in one piece; a task over there gives them all
//! before any connection is polled, and each connection then writes once. (Measured with 1,000 puts in
//! flight: 2.3 system calls a put became 0.3, and a third of its processor time is gone.)
//!
//! Only what comes in numbers goes this way, outcomes of commands and opened read barriers. Everything
//! else is answered on the spot.
//!
//! Invariants:
//! - answers are given in the order in which they were gathered, each once;
//! - nothing is gathered longer than until the end of the turn ([`Answers::end_turn`]).

use tokio::sync::mpsc;

use super::error::ServeError;
use super::{proposals, reads};
use crate::command::Outcome;
use crate::runtime::{Lane, Runtime};

enum Answer {
    Outcome(proposals::Reply, Result<Outcome, ServeError>),
    Read(reads::Reply),
}

/// The answers of a turn.
pub(crate) struct Answers {
    turn: Vec<Answer>,
    post: mpsc::UnboundedSender<Vec<Answer>>,
}

impl Answers {
    /// Starts the task that gives answers.
    pub(crate) fn new<R: Runtime>(runtime: &R) -> Self {
        let (post, mut turns) = mpsc::unbounded_channel();
        runtime.spawn(Lane::Serve, "answers", async move {
            while let Some(turn) = turns.recv().await {
                give(turn);
            }
        });
        Self { turn: Vec::new(), post }
    }

    /// Takes what a command came to.
    pub(crate) fn outcome(&mut self, to: proposals::Reply, outcome: Result<Outcome, ServeError>) {
        self.turn.push(Answer::Outcome(to, outcome));
    }

    /// Takes an opened read barrier.
    pub(crate) fn read(&mut self, to: reads::Reply) {
        self.turn.push(Answer::Read(to));
    }

    /// Sends off what was gathered.
    pub(crate) fn end_turn(&mut self) {
        if crate::buggify!("answers_go_one_by_one") {
            self.turn.drain(..).for_each(|answer| drop(self.post.send(vec![answer])));
        }
        if !self.turn.is_empty() {
            // A lane that is gone has nobody left who waits.
            let _ = self.post.send(std::mem::take(&mut self.turn));
        }
    }
}

fn give(turn: Vec<Answer>) {
    for answer in turn {
        // A waiter that has gone away wants no answer.
        match answer {
            Answer::Outcome(to, outcome) => drop(to.send(outcome)),
            Answer::Read(to) => drop(to.send(Ok(()))),
        }
    }
}

#[cfg(test)]
impl Answers {
    /// Answers without a task: see [`Answers::give_here`].
    pub(crate) fn on_the_spot() -> Self {
        Self { turn: Vec::new(), post: mpsc::unbounded_channel().0 }
    }

    /// Gives what was gathered.
    pub(crate) fn give_here(&mut self) {
        give(std::mem::take(&mut self.turn));
    }
}
