//! Where two texts differ, for people.

/// The lines that only one of two texts has, after `-` (the first) or `+` (the second), each stretch with a few lines around
/// it. Empty: they are the same.
#[must_use]
pub fn diff(a: &str, b: &str) -> String {
    const AROUND: usize = 4;
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    // How long the longest common rest is, from every pair of lines on.
    let mut common = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = match a[i] == b[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut all) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            all.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            all.push(('-', a[i]));
            i += 1;
        } else {
            all.push(('+', b[j]));
            j += 1;
        }
    }
    let near = |at: usize| {
        let range = at.saturating_sub(AROUND)..(at + AROUND + 1).min(all.len());
        all[range].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut text = String::new();
    let mut gap = false;
    for (at, (sign, line)) in all.iter().enumerate() {
        if near(at) {
            text += &format!("{sign} {line}\n");
            gap = false;
        } else if !gap && !text.is_empty() {
            text += "  …\n";
            gap = true;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn what_only_one_has_is_shown_and_nothing_where_both_are_the_same() {
        assert_eq!(diff("a\nb\nc", "a\nb\nc"), "");
        assert_eq!(diff("a\nb\nc", "a\nx\nc\nd"), "  a\n- b\n+ x\n  c\n+ d\n");
    }
}
