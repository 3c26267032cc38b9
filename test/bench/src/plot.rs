//! Bar charts as SVG.

use std::fmt::Write;

/// One chart: in each group a bar for either subject.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) groups: Vec<(String, [f64; 2])>,
}

const WIDTH: f64 = 640.0;
const CHART_HEIGHT: f64 = 150.0;
const LEGEND_HEIGHT: f64 = 40.0;
const LABEL_WIDTH: f64 = 110.0;
const BAR_HEIGHT: f64 = 20.0;
const COLOURS: [&str; 2] = ["#654ff0", "#9aa0a6"];

/// The charts below each other, with one legend. Bars begin at zero and lie, so that their
/// labels are read without turning the head.
pub(crate) fn charts(names: [&str; 2], charts: &[Chart]) -> String {
    let height = LEGEND_HEIGHT + CHART_HEIGHT * charts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, name) in names.iter().enumerate() {
        let x = LABEL_WIDTH + 130.0 * number as f64;
        let colour = COLOURS[number];
        let _ = write!(
            svg,
            "<rect x=\"{x}\" y=\"14\" width=\"14\" height=\"14\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"26\">{}</text>\n",
            x + 20.0,
            escaped(name)
        );
    }
    for (number, chart) in charts.iter().enumerate() {
        draw(
            &mut svg,
            chart,
            LEGEND_HEIGHT + CHART_HEIGHT * number as f64,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, chart: &Chart, top: f64) {
    let largest = chart
        .groups
        .iter()
        .flat_map(|(_, values)| values)
        .fold(0.0, |a: f64, b| a.max(*b));
    let scale = (WIDTH - LABEL_WIDTH - 70.0) / largest.max(f64::MIN_POSITIVE);
    let title = escaped(&chart.title);
    let _ = writeln!(
        svg,
        "<text x=\"{LABEL_WIDTH}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        top + 16.0
    );
    for (place, (label, values)) in chart.groups.iter().enumerate() {
        let group = top + 28.0 + place as f64 * (2.0 * BAR_HEIGHT + 14.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LABEL_WIDTH - 8.0,
            group + BAR_HEIGHT + 4.0,
            escaped(label)
        );
        for (number, value) in values.iter().enumerate() {
            // A figure below zero is noise of the host; its bar has no length.
            let length = (value * scale).max(0.0);
            let y = group + number as f64 * BAR_HEIGHT;
            let _ = write!(
                svg,
                "<rect x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" \
                 fill=\"{}\"/>\n<text x=\"{:.1}\" y=\"{}\">{value:.1}</text>\n",
                BAR_HEIGHT - 3.0,
                COLOURS[number],
                LABEL_WIDTH + length + 6.0,
                y + 13.0
            );
        }
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
            groups: vec![("g".into(), [10.0, 20.0])],
        };
        let svg = charts(["one", "two"], &[chart]);
        assert!(svg.contains("a &lt; b"));
        assert!(
            svg.contains("width=\"230.0\"") && svg.contains("width=\"460.0\""),
            "{svg}"
        );
    }
}
