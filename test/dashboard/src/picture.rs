//! The panels as a picture, beside each other as Grafana has them.

use std::error::Error;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use plotters::prelude::*;

use crate::dashboard::Panel;
use crate::prometheus::Line;

const COLUMNS: usize = 3;
/// Size of a panel, in pixels.
const SIZE: (u32, u32) = (440, 280);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(127, 127, 127),
];

pub fn draw(
    path: &Path,
    begin: SystemTime,
    panels: &[(Panel, Vec<Line>)],
) -> Result<(), Box<dyn Error>> {
    let begin = begin.duration_since(UNIX_EPOCH)?.as_secs_f64();
    let rows = panels.len().div_ceil(COLUMNS);
    let size = (SIZE.0 * COLUMNS as u32, SIZE.1 * rows as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (place, (panel, lines)) in area.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        let points = || lines.iter().flat_map(|line| &line.points);
        let longest = points().fold(1.0, |most: f64, point| most.max(point.0 - begin));
        let most = points().fold(0.0, |most: f64, point| most.max(point.1));
        let unit = panel.fields.defaults.unit.clone();
        let mut chart = ChartBuilder::on(place)
            .margin(12)
            .caption(&panel.title, ("sans-serif", 16))
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..longest, 0.0..(most * 1.25).max(1e-3))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_labels(5)
            .y_labels(5)
            .x_label_formatter(&|second| format!("{second:.0} s"))
            .y_label_formatter(&|value| readable(*value, &unit))
            .draw()?;
        for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            let points = line
                .points
                .iter()
                .map(|(time, value)| (time - begin, *value));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(&line.name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

/// A value in one of Grafana's units.
fn readable(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "bytes" if value >= 1048576.0 => (value / 1048576.0, " MiB"),
        "bytes" => (value / 1024.0, " KiB"),
        "s" if value < 1.0 => (value * 1000.0, " ms"),
        "s" => (value, " s"),
        "reqps" | "ops" => (value, " / s"),
        _ => (value, ""),
    };
    match value {
        10.0.. => format!("{value:.0}{unit}"),
        1.0.. => format!("{value:.1}{unit}"),
        _ => format!("{value:.2}{unit}"),
    }
}
