//! Table tests of the protocol rules. Names are those of the list of cases that the public test suite lacks.

mod breaks;
mod delta;
mod life;
mod order;
mod random;
mod refusal;
mod storm;
mod world;
