//! Regular expressions of routes: over the whole value, bounded in length and compiled size.
//!
//! Matching is linear in the value (no backtracking), so a pattern can cost memory but not time.

pub use regex::Regex;
use regex::RegexBuilder;

/// The longest pattern, in bytes (Gateway API allows 1,024 for paths and 4,096 for header values).
pub const PATTERN_MAX: usize = 4096;
/// The largest compiled program, in bytes. Enough for `\w{1,20}`, which knows all of Unicode.
pub const COMPILED_MAX: usize = 1 << 20;

const OPEN: &str = r"\A(?:";
const CLOSE: &str = r")\z";

/// Why a string is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The pattern is too long.
    #[error("the pattern has {0} bytes, and {PATTERN_MAX} is the limit")]
    TooLong(usize),
    /// The pattern compiles to more than the limit.
    #[error("the pattern compiles to more than {COMPILED_MAX} bytes; use fewer or smaller repetitions")]
    TooLarge,
    /// The pattern is not of the syntax (RE2's, without look-around and back-references).
    #[error("{0}")]
    Syntax(String),
}

/// Compiles a pattern that must match the whole value.
pub fn whole(pattern: &str) -> Result<Regex, PatternError> {
    if pattern.len() > PATTERN_MAX {
        return Err(PatternError::TooLong(pattern.len()));
    }
    // Alone first: `a)|(?:b` is a pattern only inside the anchors, and then one that they do not hold.
    compile(pattern)?;
    compile(&format!("{OPEN}{pattern}{CLOSE}"))
}

/// The pattern that [`whole`] was given.
pub fn source(regex: &Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix(OPEN)
        .and_then(|rest| rest.strip_suffix(CLOSE))
        .unwrap_or(text)
}

fn compile(pattern: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(pattern)
        .size_limit(COMPILED_MAX)
        .dfa_size_limit(COMPILED_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
            other => PatternError::Syntax(other.to_string()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_the_whole_value() {
        let regex = whole("a|ab").unwrap();
        assert!(regex.is_match("a") && regex.is_match("ab"));
        assert!(!regex.is_match("abc") && !regex.is_match("xa") && !regex.is_match("a\n"));
    }

    #[test]
    fn flags_inside_do_not_loosen_the_anchors() {
        let regex = whole("(?m)^a$").unwrap();
        assert!(regex.is_match("a"));
        assert!(!regex.is_match("a\nb") && !regex.is_match("b\na"));
    }

    #[test]
    fn a_pattern_cannot_break_out_of_the_anchors() {
        assert!(matches!(whole("a)|(?:b"), Err(PatternError::Syntax(_))));
    }

    #[test]
    fn patterns_are_bounded() {
        assert_eq!(
            whole(&"a".repeat(PATTERN_MAX + 1)).unwrap_err(),
            PatternError::TooLong(PATTERN_MAX + 1)
        );
        assert!(whole(&"a".repeat(PATTERN_MAX)).is_ok());
        assert_eq!(whole(r"\w{1,1000}{1,100}").unwrap_err(), PatternError::TooLarge);
        assert!(whole(r"/users/\w{1,20}").is_ok());
    }

    #[test]
    fn the_source_comes_back() {
        assert_eq!(source(&whole("/v[12]/.*").unwrap()), "/v[12]/.*");
    }
}
