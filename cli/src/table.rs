//! Tables of text for people.

/// Rows of cells under a heading; columns are as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()],
        }
    }

    /// Adds a row. Empty cells show as `-`. Control characters, which could drive a terminal, show as spaces.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| match cell.is_empty() {
            true => "-".to_owned(),
            false => cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Whether it has no row but its headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_cells_show() {
        let mut table = Table::new(&["NAME", "READY"]);
        assert!(table.is_empty());
        table.row(["reviews-v1".to_owned(), "1/1".to_owned()]);
        table.row(["ü\x1b".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NAME        READY\nreviews-v1  1/1\nü           -\n");
    }
}
