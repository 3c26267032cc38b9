//! Bar charts as SVG.

use std::fmt::Write;

use crate::table::figure;

/// One chart: in each group a bar for each subject, or a single one.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) groups: Vec<(String, Vec<f64>)>,
}

impl Chart {
    fn height(&self) -> f64 {
        let groups = self.groups.iter();
        let groups = groups.map(|(_, values)| values.len() as f64 * BAR_HEIGHT + GROUP_GAP);
        TITLE_HEIGHT + groups.sum::<f64>() + CHART_GAP
    }
}

const BARS_WIDTH: f64 = 460.0;
/// Room for the figure behind the longest bar.
const FIGURE_WIDTH: f64 = 70.0;
const LEGEND_HEIGHT: f64 = 40.0;
const TITLE_HEIGHT: f64 = 28.0;
const CHART_GAP: f64 = 14.0;
const GROUP_GAP: f64 = 14.0;
const BAR_HEIGHT: f64 = 20.0;
/// Of a letter, on average.
const LETTER_WIDTH: f64 = 7.0;
const COLOURS: [&str; 2] = ["#654ff0", "#9aa0a6"];

/// The charts below each other, with one legend of the subjects' names where a group has a bar
/// for each. Bars begin at zero and lie, so that their labels are read without turning the
/// head.
pub(crate) fn charts(names: &[&str], charts: &[Chart]) -> String {
    let groups = charts.iter().flat_map(|chart| &chart.groups);
    let longest = groups.map(|(label, _)| label.chars().count()).max();
    let left = LETTER_WIDTH * longest.unwrap_or(0) as f64 + 20.0;
    let width = left + BARS_WIDTH + FIGURE_WIDTH;
    let mut top = if names.is_empty() {
        14.0
    } else {
        LEGEND_HEIGHT
    };
    let height = top + charts.iter().map(Chart::height).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, name) in names.iter().enumerate() {
        let x = left + 130.0 * number as f64;
        let colour = COLOURS[number % COLOURS.len()];
        let _ = write!(
            svg,
            "<rect x=\"{x}\" y=\"14\" width=\"14\" height=\"14\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"26\">{}</text>\n",
            x + 20.0,
            escaped(name)
        );
    }
    for chart in charts {
        draw(&mut svg, chart, left, top);
        top += chart.height();
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, chart: &Chart, left: f64, top: f64) {
    let largest = chart
        .groups
        .iter()
        .flat_map(|(_, values)| values)
        .fold(0.0, |a: f64, b| a.max(*b));
    let scale = BARS_WIDTH / largest.max(f64::MIN_POSITIVE);
    let title = escaped(&chart.title);
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        top + 16.0
    );
    let mut y = top + TITLE_HEIGHT;
    for (label, values) in &chart.groups {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + values.len() as f64 * BAR_HEIGHT / 2.0 + 3.0,
            escaped(label)
        );
        for (number, value) in values.iter().enumerate() {
            // A figure below zero is noise of the host; its bar has no length.
            let length = (value * scale).max(0.0);
            let _ = write!(
                svg,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" \
                 fill=\"{}\"/>\n<text x=\"{:.1}\" y=\"{}\">{}</text>\n",
                BAR_HEIGHT - 3.0,
                COLOURS[number % COLOURS.len()],
                left + length + 6.0,
                y + 13.0,
                figure(*value)
            );
            y += BAR_HEIGHT;
        }
        y += GROUP_GAP;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_to_scale_and_text_is_escaped() {
        let chart = Chart {
            title: "a < b".into(),
            groups: vec![("g".into(), vec![10.0, 20.0])],
        };
        let svg = charts(&["one", "two"], &[chart]);
        assert!(svg.contains("a &lt; b"));
        assert!(
            svg.contains("width=\"230.0\"") && svg.contains("width=\"460.0\""),
            "{svg}"
        );
    }
}
