//! The hidden commands by which a program that uses this crate re-executes itself: `room`, `init` and `supervisor` (see
//! [`crate::sandbox`]), `container` and `exec` (see [`crate::pod`]).
//!
//! In: argv, and a value attached to the environment. Out: the exit code, if argv was one of these; the ordinary `main`
//! must not go on then.

use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitCode};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::container;
use crate::sandbox::{self, Supervisor};

/// The first argument of every hidden command.
pub const STAGE: &str = "local-stage";
/// Environment variables that hold the attached value, in parts: `WEFT_STAGE_0`, `WEFT_STAGE_1` ...
const ATTACHED: &str = "WEFT_STAGE_";
/// The kernel takes 128 KiB for one variable; multi-byte characters and the name need some room.
const PART: usize = 120 << 10;
/// The kernel takes a quarter of the stack's limit for all of them, 2 MiB by default.
const PARTS: usize = 12;

/// Runs the hidden command that `argv` (with the program's name first) asks for, if it does. Must be called first thing
/// in `main`, before any thread exists. `supervisors` are the functions that [`crate::sandbox::Settings::supervisor`]
/// can name.
pub fn main(argv: impl IntoIterator<Item = OsString>, supervisors: &[(&str, Supervisor)]) -> Option<ExitCode> {
    let mut argv = argv.into_iter().skip(1);
    if argv.next()? != STAGE {
        return None;
    }
    let name = argv.next().unwrap_or_default();
    close_inherited();
    Some(match name.to_str() {
        Some("room") => sandbox::room(),
        Some("init") => sandbox::init(),
        Some("supervisor") => sandbox::supervise(argv.collect(), supervisors),
        Some("container") => container::init(),
        Some("exec") => container::enter(),
        _ => {
            eprintln!("weft: {STAGE} is internal; see `weft --help`");
            ExitCode::from(64)
        }
    })
}

/// Closes what the caller's shell, or a careless parent, left open: none of it is meant for what runs inside.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The directory's own descriptor is in the list and closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// Hands `value` to a hidden command through its environment: unlike arguments, nobody else may read that.
pub(crate) fn attach(command: &mut Command, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    for (index, part) in parts(&text)?.into_iter().enumerate() {
        command.env(format!("{ATTACHED}{index}"), part);
    }
    Ok(())
}

/// Removes what was attached to this process from a child's environment.
pub(crate) fn detach(command: &mut Command) {
    for index in 0..PARTS {
        command.env_remove(format!("{ATTACHED}{index}"));
    }
}

/// The value that was attached to this process.
pub(crate) fn attached<T: DeserializeOwned>() -> io::Result<T> {
    let text: String = (0..PARTS)
        .map_while(|index| std::env::var(format!("{ATTACHED}{index}")).ok())
        .collect();
    Ok(serde_json::from_str(&text)?)
}

fn parts(mut text: &str) -> io::Result<Vec<&str>> {
    let mut parts = Vec::new();
    while !text.is_empty() {
        if parts.len() == PARTS {
            let limit = (PART * PARTS) >> 10;
            return Err(io::Error::other(format!(
                "command and environment of a container exceed {limit} KiB"
            )));
        }
        let mut end = text.len().min(PART);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (part, rest) = text.split_at(end);
        parts.push(part);
        text = rest;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_command_line_is_not_ours() {
        let argv = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(main(argv(&["weft", "up"]), &[]).is_none());
        assert!(main(argv(&["weft"]), &[]).is_none());
    }

    #[test]
    fn a_large_value_is_split_between_characters_and_a_too_large_one_refused() {
        let text = "é".repeat(PART);
        let split = parts(&text).unwrap();
        assert_eq!(split.len(), 2);
        assert_eq!(split.concat(), text);
        assert!(parts(&"x".repeat(PART * PARTS + 1)).is_err());
    }
}
