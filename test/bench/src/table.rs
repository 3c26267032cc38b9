//! Tables of figures, as text, as data and as a picture.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::plot::{Chart, charts};
use crate::report::machine;
use crate::start::quantile;

/// What one part of the benchmark found.
pub(crate) struct Findings {
    /// Name of its files.
    pub(crate) name: &'static str,
    /// What was done, in a sentence or two.
    pub(crate) about: String,
    pub(crate) tables: Vec<Table>,
    /// What a reader has to know beside the figures: what was left out, and why.
    pub(crate) notes: Vec<String>,
}

/// Subjects with the same figures each.
pub(crate) struct Table {
    pub(crate) title: String,
    /// Each figure's name with its unit.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// A subject: for each column all that was measured, in order; nothing where it was not.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<Vec<f64>>,
}

impl Findings {
    /// The tables: medians, and in parentheses the lowest and the highest.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{} {}.\n", self.about, machine());
        for table in &self.tables {
            table.write(&mut text);
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    fn json(&self) -> Value {
        let row = |table: &Table, row: &Row| {
            let figures = table.columns.iter().zip(&row.cells);
            let figures: serde_json::Map<String, Value> = figures
                .map(|(column, cell)| (column.clone(), json!(cell)))
                .collect();
            json!({ "name": row.name, "figures": figures })
        };
        let tables = self.tables.iter().map(|table| {
            let rows: Vec<Value> = table.rows.iter().map(|each| row(table, each)).collect();
            json!({ "title": table.title, "rows": rows })
        });
        json!({
            "machine": machine(),
            "about": self.about,
            "tables": tables.collect::<Vec<Value>>(),
            "notes": self.notes,
        })
    }

    fn svg(&self) -> String {
        let charts_of = |table: &Table| -> Vec<Chart> {
            let columns = table.columns.iter().enumerate();
            columns
                .map(|(place, column)| Chart {
                    title: format!("{}: {column}", table.title),
                    groups: table.bars(place),
                })
                .collect()
        };
        let all: Vec<Chart> = self.tables.iter().flat_map(charts_of).collect();
        charts(&[], &all)
    }

    /// Writes `NAME.md`, `NAME.json` and `NAME.svg` into the folder, which is made.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let file = |kind: &str| folder.join(format!("{}.{kind}", self.name));
        fs::create_dir_all(folder)?;
        fs::write(file("md"), self.markdown())?;
        fs::write(file("json"), format!("{:#}\n", self.json()))?;
        fs::write(file("svg"), self.svg())
    }
}

impl Table {
    /// A row without figures yet for each name.
    pub(crate) fn new<'a>(
        title: &str,
        columns: &[&str],
        names: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let rows = names.into_iter().map(|name| Row {
            name: name.to_owned(),
            cells: vec![Vec::new(); columns.len()],
        });
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: rows.collect(),
        }
    }

    fn write(&self, text: &mut String) {
        let _ = write!(text, "\n| {} |", self.title);
        for column in &self.columns {
            let _ = write!(text, " {column} |");
        }
        let _ = write!(text, "\n| --- |{}\n", " ---: |".repeat(self.columns.len()));
        for row in &self.rows {
            let _ = write!(text, "| {} |", row.name);
            for cell in &row.cells {
                let _ = write!(text, " {} |", summary(cell));
            }
            text.push('\n');
        }
    }

    fn bars(&self, column: usize) -> Vec<(String, Vec<f64>)> {
        let rows = self.rows.iter().filter(|row| !row.cells[column].is_empty());
        rows.map(|row| (row.name.clone(), vec![quantile(&row.cells[column], 0.5)]))
            .collect()
    }
}

/// The median, with the lowest and the highest when there are several.
fn summary(cell: &[f64]) -> String {
    match cell {
        [] => "-".to_owned(),
        [only] => figure(*only),
        several => {
            let at = |share| figure(quantile(several, share));
            format!("{} ({} to {})", at(0.5), at(0.0), at(1.0))
        }
    }
}

/// Three digits that count, and no more than noise allows.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_medians_and_what_they_vary_between() {
        let mut table = Table::new("who", &["req/s", "ms"], ["one", "other"]);
        table.rows[0].cells = vec![vec![1500.0, 1000.0, 1200.0], vec![2.5]];
        let mut text = String::new();
        table.write(&mut text);
        let expected = "\n| who | req/s | ms |\n| --- | ---: | ---: |\n\
                        | one | 1200 (1000 to 1500) | 2.50 |\n| other | - | - |\n";
        assert_eq!(text, expected);
        assert_eq!(table.bars(0), [("one".to_owned(), vec![1200.0])]);
    }
}
