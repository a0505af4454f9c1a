//! How a command ends (DESIGN §8).

use std::process::ExitCode;

/// The exit codes that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: fine.
    Fine,
    /// 1: the answer is no: invalid configuration, or differences.
    No,
    /// 2: the command line makes no sense.
    Usage,
    /// 3: the environment failed: files, network, store.
    Environment,
    /// 4: a gate refused.
    Refused,
    /// 5: integrity: a signature or digest does not hold.
    Integrity,
    /// 6: `diff` could not compile one side.
    OneSide,
    /// 7: `wait` ran out of time.
    TimedOut,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Fine => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Environment => 3,
            Exit::Refused => 4,
            Exit::Integrity => 5,
            Exit::OneSide => 6,
            Exit::TimedOut => 7,
        })
    }
}

/// A command that could not give its answer: a message and an exit code.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What to print, causes included.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with this exit code.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }
}

/// Errors without a code of their own are the environment's.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Environment, error)
    }
}
