//! Lines over a logarithmic or a named axis.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{
    bars::{FONT, color},
    targets::number,
};

/// Lines in one coordinate system, both axes logarithmic.
pub(super) struct Lines {
    /// What is shown.
    pub(super) title: String,
    /// What the horizontal axis counts.
    pub(super) across: String,
    /// What the vertical axis counts.
    pub(super) up: String,
    /// Names for places of the horizontal axis, at 1, 10, 100, …; none: its numbers.
    pub(super) places: &'static [&'static str],
    /// Name and points.
    pub(super) lines: Vec<(String, Vec<(f64, f64)>)>,
}

const SIZE: (u32, u32) = (860, 420);
/// What the names of the lines take of the width.
const LEGEND: u32 = 140;

impl Lines {
    /// As SVG.
    pub(super) fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw_on(&area)
                .and_then(|()| area.present())
                .map_err(|error| anyhow!("{}: {error}", self.title))?;
        }
        Ok(svg)
    }

    fn draw_on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let (area, beside) = area.split_horizontally(SIZE.0 - LEGEND);
        self.draw_legend(&beside)?;
        let points = || {
            self.lines
                .iter()
                .flat_map(|(_, points)| points.iter().copied())
        };
        let [low, high] = bounds(points().map(|(_, y)| y));
        let [left, right] = bounds(points().map(|(x, _)| x));
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, (FONT, 18))
            .margin(16)
            .margin_right(0)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(
                (left * 0.8..right * 1.25).log_scale(),
                (low * 0.8..high * 1.4).log_scale(),
            )?;
        let place = |x: &f64| match self.places.get(x.log10().round().max(0.0) as usize) {
            Some(place) => (*place).to_owned(),
            None => number(*x),
        };
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.across.as_str())
            .y_desc(self.up.as_str())
            .axis_desc_style((FONT, 13))
            .label_style((FONT, 12))
            .y_labels(10)
            .x_label_formatter(&place)
            .y_label_formatter(&|y| number(*y))
            .draw()?;
        for (name, points) in &self.lines {
            let color = color(name);
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            chart.draw_series(line)?;
            let dots = points
                .iter()
                .map(|point| Circle::new(*point, 4, color.filled()));
            chart.draw_series(dots)?;
        }
        Ok(())
    }

    /// Beside the chart, where it hides nothing.
    fn draw_legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        for (at, (name, _)) in self.lines.iter().enumerate() {
            let (left, top) = (14, 60 + 22 * at as i32);
            let mark = [(left, top), (left + 14, top + 8)];
            area.draw(&Rectangle::new(mark, color(name).filled()))?;
            let place = (left + 20, top - 3);
            area.draw(&Text::new(name.clone(), place, (FONT, 13)))?;
        }
        Ok(())
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let start = [f64::INFINITY, f64::MIN_POSITIVE];
    values.fold(start, |[low, high], value| {
        [low.min(value), high.max(value)]
    })
}
