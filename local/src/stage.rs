//! The hidden commands by which a program that uses this crate re-executes itself: sandbox, container init, application.
//!
//! In: argv. Out: the exit code, if argv was one of these; the ordinary `main` must not go on then.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::sandbox::Supervisor;

/// The first argument of every hidden command.
pub const STAGE: &str = "local-stage";

/// Runs the hidden command that `argv` (with the program's name first) asks for, if it does. Must be called first thing
/// in `main`, before any thread exists. `supervisors` are the functions that [`crate::sandbox::Settings::supervisor`]
/// can name.
pub fn main(argv: impl IntoIterator<Item = OsString>, supervisors: &[(&str, Supervisor)]) -> Option<ExitCode> {
    let _ = (argv.into_iter().nth(1)? == STAGE, supervisors);
    None
}
