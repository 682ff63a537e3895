//! Tables of text, with aligned columns.

use std::fmt::Write;

/// The alignment of the cells in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Renders rows in columns two spaces apart. The last cell of a row with fewer cells than `columns`
/// takes the rest of the line, and does not widen its column.
pub(super) fn render(columns: &[Align], rows: &[Vec<String>]) -> String {
    let mut widths = vec![0; columns.len()];
    for row in rows {
        let counted = if row.len() < columns.len() {
            row.len().saturating_sub(1)
        } else {
            row.len()
        };
        for (width, cell) in widths.iter_mut().zip(&row[..counted]) {
            *width = (*width).max(visible(cell));
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (position, cell) in row.iter().enumerate() {
            let last = position + 1 == row.len();
            let free = widths
                .get(position)
                .map_or(0, |width| width.saturating_sub(visible(cell)));
            // Writing to a String cannot fail.
            let _ = match columns.get(position) {
                Some(Align::Right) if row.len() >= columns.len() || !last => {
                    write!(line, "{:free$}{cell}", "")
                }
                _ => write!(line, "{cell}{:free$}", ""),
            };
            if !last {
                line.push_str("  ");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The number of visible characters, without escape sequences for colours.
pub(super) fn visible(cell: &str) -> usize {
    let mut count = 0;
    let mut colour = false;
    for character in cell.chars() {
        match character {
            '\x1b' => colour = true,
            'm' if colour => colour = false,
            _ if colour => {}
            _ => count += 1,
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect()
    }

    #[test]
    fn columns_are_aligned_and_a_short_row_widens_none() {
        let rows = rows(&[
            &["N", "NAME", "SIZE"],
            &["0", "a", "64 MiB"],
            &["1", "down: connection refused"],
        ]);
        assert_eq!(
            render(&[Align::Right, Align::Left, Align::Right], &rows),
            "N  NAME    SIZE\n0  a     64 MiB\n1  down: connection refused\n"
        );
    }

    #[test]
    fn colours_do_not_count_for_the_width() {
        let rows = rows(&[&["\x1b[32mup\x1b[0m", "1"], &["down", "2"]]);
        assert_eq!(
            render(&[Align::Left, Align::Right], &rows),
            "\x1b[32mup\x1b[0m    1\ndown  2\n"
        );
    }
}
