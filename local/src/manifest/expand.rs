//! `$(NAME)` in `command`, `args` and `env`, as Kubernetes expands it.

/// Replaces each `$(NAME)` that `value` knows. One that it does not know stays as it was written; `$$` is `$`.
///
/// `$$(NAME)` therefore reads `$(NAME)` whether the variable exists or not (API reference, `Container.command`).
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest
            .strip_prefix('(')
            .and_then(|inner| inner.find(')').map(|end| &inner[..end]));
        match name {
            Some(name) => {
                match value(name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest = &rest[name.len() + 2..];
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let value = |name: &str| match name {
            "HOST" => Some("web"),
            "EMPTY" => Some(""),
            "NESTED" => Some("$(HOST)"),
            _ => None,
        };
        assert_eq!(expand(text, value), want);
    }

    #[test]
    fn known_names_are_replaced_and_unknown_ones_stay() {
        check("http://$(HOST):80/$(EMPTY)x", "http://web:80/x");
        check("$(NOBODY) $(HOST)", "$(NOBODY) web");
        check("$()", "$()");
    }

    #[test]
    fn a_doubled_dollar_is_one_and_hides_what_follows() {
        check("$$(HOST)", "$(HOST)");
        check("$$$(HOST)", "$web");
        check("100$$", "100$");
    }

    #[test]
    fn what_is_no_reference_stays_as_it_was() {
        for text in ["", "$", "a$b", "$HOST", "${HOST}", "$(HOST", "ü$(", "$ (HOST)"] {
            check(text, text);
        }
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        check("$(NESTED)", "$(HOST)");
    }
}
