//! Horizontal bars in groups, each with its value beside it: nobody has to read an axis.

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::targets::number;

/// Groups of bars.
pub(super) struct Bars {
    /// What is shown.
    pub(super) title: String,
    /// How to read it.
    pub(super) subtitle: String,
    /// Name and bars: the name of each, and its value.
    pub(super) groups: Vec<(String, Vec<(String, f64)>)>,
}

const WIDTH: i32 = 860;
/// Where bars begin, and where the longest one ends.
const SPAN: [i32; 2] = [270, 740];
const HEAD: i32 = 72;
const BAR: i32 = 24;
const GAP: i32 = 34;
pub(super) const FONT: &str = "Helvetica, Arial, sans-serif";

impl Bars {
    /// As SVG.
    pub(super) fn draw(&self) -> Result<String> {
        let rows: usize = self.groups.iter().map(|(_, bars)| bars.len()).sum();
        let height = HEAD + BAR * rows as i32 + GAP * self.groups.len() as i32 + 12;
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32));
            let area = area.into_drawing_area();
            self.draw_on(&area)
                .and_then(|()| area.present())
                .map_err(|error| anyhow!("{}: {error}", self.title))?;
        }
        Ok(svg)
    }

    fn draw_on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        write(area, &self.title, 18, (20, 24), HPos::Left, &BLACK)?;
        write(area, &self.subtitle, 13, (20, 48), HPos::Left, &GREY)?;
        let values = self.groups.iter().flat_map(|(_, bars)| bars);
        let longest = values
            .map(|(_, value)| *value)
            .fold(f64::MIN_POSITIVE, f64::max);
        let mut top = HEAD;
        for (name, bars) in &self.groups {
            write(area, name, 14, (20, top + 10), HPos::Left, &BLACK)?;
            top += GAP - 12;
            for (bar, value) in bars {
                let [left, right] = SPAN;
                let end =
                    left + (f64::from(right - left) * value / longest).round().max(1.0) as i32;
                let middle = top + BAR / 2;
                let shape = [(left, top + 3), (end, top + BAR - 3)];
                area.draw(&Rectangle::new(shape, color(bar).filled()))?;
                write(area, bar, 13, (left - 10, middle), HPos::Right, &BLACK)?;
                write(
                    area,
                    &number(*value),
                    13,
                    (end + 8, middle),
                    HPos::Left,
                    &BLACK,
                )?;
                top += BAR;
            }
            top += 12;
        }
        Ok(())
    }
}

const GREY: RGBColor = RGBColor(90, 90, 90);

/// The same for a name in every chart; told apart by the colour-blind, too.
pub(super) fn color(name: &str) -> RGBColor {
    match name {
        "ringway" | "stream" => RGBColor(0, 114, 178),
        "tonic" | "rest" => RGBColor(230, 159, 0),
        "limit" | "queue" => RGBColor(150, 150, 150),
        "limit-joined" => RGBColor(200, 200, 200),
        "nchan" | "ringway-plain" => RGBColor(0, 158, 115),
        "nats" | "unary" => RGBColor(204, 121, 167),
        "pushpin" | "rest-close" => RGBColor(213, 94, 0),
        _ => RGBColor(86, 180, 233),
    }
}

fn write<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    text: &str,
    size: u32,
    at: (i32, i32),
    side: HPos,
    color: &RGBColor,
) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let style = TextStyle::from((FONT, size).into_font()).color(color);
    area.draw_text(text, &style.pos(Pos::new(side, VPos::Center)), at)
}
