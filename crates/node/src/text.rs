//! Numbers as people read them.

use std::time::{Duration, SystemTime};

/// `5.3 MiB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 3] = ["GiB", "MiB", "KiB"];
    for (power, unit) in (1..=3).rev().zip(UNITS) {
        let one = 1u64 << (10 * power);
        if bytes >= one {
            return format!("{:.1} {unit}", bytes as f64 / one as f64);
        }
    }
    format!("{bytes} B")
}

/// `5 minutes ago`
pub fn age(time: SystemTime) -> String {
    let seconds = time.elapsed().unwrap_or(Duration::ZERO).as_secs();
    let (count, unit) = match seconds {
        0..60 => return "now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// Rows under each other, with two blanks between columns.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                // The width of a format has 16 bits, and a cell may be longer.
                line.push_str(&" ".repeat(width - cell.chars().count() + 2));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_rounded() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(5 << 20), "5.0 MiB");
        assert_eq!(size(4 << 30), "4.0 GiB");
        let ago = |seconds| age(SystemTime::now() - Duration::from_secs(seconds));
        assert_eq!(ago(10), "now");
        assert_eq!(ago(61), "1 minute ago");
        assert_eq!(ago(3 * 86_400 + 5), "3 days ago");
        assert_eq!(age(SystemTime::now() + Duration::from_secs(9)), "now");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["a", "bb", "c"], ["aaa", "b", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a    bb  c\naaa  b\n");
        assert_eq!(table(&[]), "");
        let long = "x".repeat(70_000);
        let rows = [[long.as_str(), "a"], ["b", &long]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows).len(), 70_000 + 4 + 70_002 + 70_001);
    }
}
