//! A bar for each subject of a work, as SVG.

use anyhow::{Result, anyhow};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    results::{Measured, Results},
    subjects::Role,
    table::{figure, percent},
};

const WIDTH: i32 = 720;
const BAR: i32 = 20;
const LINE: i32 = 28;
const TOP: i32 = 34;
/// Where bars begin, and where the longest may end: names are before, values after.
const LEFT: i32 = 110;
const RIGHT: i32 = 520;
const FONT: &str = "sans-serif";

/// The chart. Subjects without a result have no bar, but their name.
///
/// # Errors
/// The drawing library's.
pub(crate) fn bars(results: &Results, work: &Measured) -> Result<String> {
    let mut svg = String::new();
    let height = TOP + LINE * i32::try_from(work.cells.len())? + 8;
    {
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH.cast_unsigned(), height.cast_unsigned()))
                .into_drawing_area();
        draw(&area, results, work).map_err(|error| anyhow!("drawing {}: {error}", work.name))?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(area: &Area<'a>, results: &Results, work: &Measured) -> Drawn<'a> {
    // Not transparent: the page may be dark, and the text is not.
    area.fill(&WHITE)?;
    let text = |size: i32, at: HPos| {
        (FONT, size).into_font().color(&BLACK).pos(Pos::new(at, VPos::Center))
    };
    let (one, many) = &work.unit;
    let (measure, better) = if work.memory {
        (format!("KiB/{one}"), "less is better")
    } else {
        (format!("{many}/s"), "more is better")
    };
    let network = results.settings.network.name();
    let title = format!("{} ({network}): {measure}, {better}", work.name);
    area.draw(&Text::new(title, (8, TOP / 2), text(14, HPos::Left)))?;

    let values: Vec<Option<f64>> = work.cells.iter().map(|cell| work.headline(cell)).collect();
    let most = values.iter().flatten().copied().fold(0.0, f64::max);
    for (place, (cell, value)) in (0..).zip(work.cells.iter().zip(&values)) {
        let top = TOP + LINE * place;
        let middle = top + BAR / 2;
        area.draw(&Text::new(cell.subject.clone(), (LEFT - 8, middle), text(12, HPos::Right)))?;
        let Some(value) = value.filter(|_| most > 0.0) else {
            let none = if cell.trouble.is_some() { "no result" } else { "–" };
            area.draw(&Text::new(none, (LEFT + 6, middle), text(12, HPos::Left)))?;
            continue;
        };
        let end = LEFT + (f64::from(RIGHT - LEFT) * value / most).round() as i32;
        let colour = colour(results.role(&cell.subject));
        area.draw(&Rectangle::new([(LEFT, top), (end, top + BAR)], colour.filled()))?;
        let direct = results.direct(work).filter(|direct| direct.subject != cell.subject);
        let ratio = direct.and_then(|direct| work.ratio(cell, direct));
        let label = match ratio {
            Some(ratio) => format!("{} ({} of direct)", figure(value), percent(ratio)),
            None => figure(value),
        };
        area.draw(&Text::new(label, (end + 6, middle), text(12, HPos::Left)))?;
    }
    area.present()
}

fn colour(role: Role) -> RGBColor {
    match role {
        Role::Direct => RGBColor(0xb0, 0xb0, 0xb0),
        Role::Mux => RGBColor(0x2b, 0x6c, 0xb0),
        Role::Peer => RGBColor(0xdd, 0x8a, 0x2c),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::results::example, *};

    #[test]
    fn bars_are_as_long_as_their_values() {
        let results = example::results();
        let svg = bars(&results, &results.works[0]).unwrap();
        let widths: Vec<i32> = svg
            .lines()
            .filter(|line| line.starts_with("<rect") && line.contains("height=\"20\""))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        // Direct access 60,000, mux 45,000, HAProxy 50,000; the other two have none.
        assert_eq!(widths, [410, 308, 342], "{svg}");
        for text in
            ["http-keep-1 (loopback): requests/s", "sslh", "no result", "45,000 (75 % of direct)"]
        {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }
}
