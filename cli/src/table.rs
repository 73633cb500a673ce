//! Tables of text for people.

use std::fmt::Write as _;

/// What an empty cell shows.
const EMPTY: &str = "-";

/// A text without control characters, which could drive a terminal: each shows as a space, several spaces as one.
pub(crate) fn clean(text: &str) -> String {
    let spaced = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut out = String::with_capacity(text.len());
    for character in spaced {
        if character != ' ' || !out.ends_with(' ') {
            out.push(character);
        }
    }
    out
}

/// How long something lasts, for people: `23h 59m`, `6d 3h`, `42s`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole seconds, and none are below 0"
)]
pub(crate) fn lasting(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

/// Rows of cells under a heading; columns are as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns that a narrow terminal does without, before any word is cut; the first goes first.
    spare: Vec<usize>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()],
            spare: Vec::new(),
        }
    }

    /// What a narrow terminal does without, by headings: the first goes first.
    pub(crate) fn spare(mut self, headings: &[&str]) -> Self {
        let at = |heading: &&str| self.rows[0].iter().position(|own| own == heading);
        self.spare = headings.iter().filter_map(at).collect();
        self
    }

    /// Adds a row. Empty cells show as `-`. Control characters, which could drive a terminal, show as spaces.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| match cell.is_empty() {
            true => EMPTY.to_owned(),
            false => clean(&cell),
        };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Whether it has no row but its headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl Table {
    /// The table as text. `width`: of the terminal that it is for, in columns, if it is for one. Where it would be wider,
    /// columns in which no row has anything are left out; then, with a word on it, spare ones, until no word is to be cut; and
    /// then the widest cells go on in the next line.
    pub(crate) fn text(&self, width: Option<usize>) -> String {
        let mut widths = self.widths();
        let left_out = match width {
            Some(width) => self.fit(&mut widths, width),
            None => Vec::new(),
        };
        let mut out = String::new();
        for row in &self.rows {
            let shown = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
            let cells: Vec<(Vec<String>, usize)> = shown.map(|(cell, width)| (wrapped(cell, *width), *width)).collect();
            let height = cells.iter().map(|(lines, _)| lines.len()).max().unwrap_or(0);
            for line in 0..height {
                let line = cells.iter().map(|(lines, width)| {
                    let text = lines.get(line).map_or("", String::as_str);
                    format!("{text:<width$}")
                });
                out.push_str(line.collect::<Vec<_>>().join(GAP).trim_end());
                out.push('\n');
            }
        }
        if !left_out.is_empty() {
            // A String takes all that is written to it.
            let _ = writeln!(out, "(-o wide has {} as well)", left_out.join(", "));
        }
        out
    }

    /// The width of the widest cell of each column.
    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

/// Between two columns.
const GAP: &str = "  ";
/// No column becomes narrower than this.
const NARROWEST: usize = 12;

/// The width of a line of columns; one of width 0 is not shown.
fn total(widths: &[usize]) -> usize {
    let shown = widths.iter().filter(|width| **width > 0);
    shown
        .map(|width| width + GAP.len())
        .sum::<usize>()
        .saturating_sub(GAP.len())
}

impl Table {
    /// Makes columns narrower until all of them fit; a column of width 0 is not shown. Returns the spare ones that are not.
    fn fit(&self, widths: &mut [usize], most: usize) -> Vec<&str> {
        for column in 0..widths.len() {
            let empty = self.rows.len() > 1
                && self
                    .rows
                    .iter()
                    .skip(1)
                    .all(|row| row.get(column).is_none_or(|cell| cell == EMPTY));
            if total(widths) > most && empty {
                widths[column] = 0;
            }
        }
        // Between words as long as that is enough: a name that is cut can't be copied.
        let mut words: Vec<usize> = (0..widths.len())
            .map(|column| {
                if widths[column] == 0 {
                    0
                } else {
                    self.longest_word(column)
                }
            })
            .collect();
        let mut left_out = Vec::new();
        for &column in &self.spare {
            if total(widths) > most && total(&words) > most && widths[column] > 0 {
                (widths[column], words[column]) = (0, 0);
                left_out.push(self.rows[0][column].as_str());
            }
        }
        for least in [words, vec![NARROWEST; widths.len()]] {
            while total(widths) > most {
                let narrower = widths.iter_mut().zip(&least).filter(|(width, least)| **width > **least);
                match narrower.max_by_key(|(width, _)| **width) {
                    Some((widest, _)) => *widest -= 1,
                    None => break,
                }
            }
        }
        left_out
    }

    fn longest_word(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let words = cells.flat_map(|cell| cell.split(' '));
        words.map(|word| word.chars().count()).max().unwrap_or(0)
    }
}

/// A cell in lines of at most `width` characters, between words where that is possible.
fn wrapped(cell: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in cell.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        let apart = usize::from(used > 0);
        if used > 0 && used + apart + length > width {
            lines.push(String::new());
            used = 0;
        } else if apart > 0 {
            lines.last_mut().expect("there is a line").push(' ');
            used += 1;
        }
        for character in word.chars() {
            if used == width {
                lines.push(String::new());
                used = 0;
            }
            lines.last_mut().expect("there is a line").push(character);
            used += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_something_lasts_has_its_two_largest_parts() {
        let all = [0.9, 61.0, 86_279.9, 90_000.0, -3.0].map(lasting);
        assert_eq!(all, ["0s", "1m 1s", "23h 57m", "1d 1h", "0s"]);
    }

    #[test]
    fn columns_line_up_and_empty_cells_show() {
        let mut table = Table::new(&["NAME", "READY"]);
        assert!(table.is_empty());
        table.row(["reviews-v1".to_owned(), "1/1".to_owned()]);
        table.row(["ü\x1b".to_owned(), String::new()]);
        assert_eq!(table.text(None), "NAME        READY\nreviews-v1  1/1\nü           -\n");
    }

    #[test]
    fn a_narrow_terminal_gets_no_wider_line_and_every_word() {
        let mut table = Table::new(&["NAME", "ZONE", "STATUS"]);
        let said = "UnsupportedValue: no regular expression:\n    a(\n     ^\nerror: unclosed group";
        table.row(["reviews".to_owned(), String::new(), said.to_owned()]);
        let text = table.text(Some(40));
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(!text.contains("ZONE"), "nothing stands there:\n{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("a( ^ error: unclosed group"), "{text}");
        assert!(table.text(None).contains("ZONE") && table.text(None).lines().count() == 2);
    }

    #[test]
    fn cells_are_parted_between_words_before_names_are_cut() {
        let mut table = Table::new(&["NAME", "ADDRESSES"]);
        table.row([
            "reviews-gbznn9789x-m9ttm".to_owned(),
            "10.244.0.2, fd00:10:244::2".to_owned(),
        ]);
        let text = table.text(Some(42));
        assert!(text.contains("reviews-gbznn9789x-m9ttm  10.244.0.2,\n"), "{text}");
    }

    #[test]
    fn spare_columns_go_one_after_the_other_before_a_word_is_cut_and_are_named() {
        let mut table = Table::new(&["NAME", "ZONE", "PID"]).spare(&["PID", "ZONE"]);
        table.row(["reviews-gbznn9789x".to_owned(), "east-a".to_owned(), "4711".to_owned()]);
        assert!(!table.text(Some(33)).contains("wide"), "all of it fits");
        assert_eq!(
            table.text(Some(30)),
            "NAME                ZONE\nreviews-gbznn9789x  east-a\n(-o wide has PID as well)\n"
        );
        assert!(table.text(Some(18)).ends_with("(-o wide has PID, ZONE as well)\n"));
    }

    #[test]
    fn a_word_that_is_wider_than_its_column_is_cut_and_not_lost() {
        assert_eq!(wrapped("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrapped("a b c", 3), ["a b", "c"]);
        assert_eq!(wrapped("-", 1), ["-"]);
    }
}
