//! Draws ladders: time downwards, a lane for each place a CPU can be.

use super::events::Lane;
use super::ladder::{Ladder, Step};

/// Ladders that belong together: one kernel in one mode.
pub struct Panel {
    pub title: String,
    pub instructions: u64,
    pub ladder: Ladder,
}

const LANE: usize = 62;
const WORDS: usize = 310;
const GAP: usize = 30;
const PANEL: usize = 4 * LANE + WORDS;
const TOP: usize = 96;
const LINE: usize = 13;
/// Characters that a line of words holds.
const WRAP: usize = 52;
/// More lines than these are summed up.
const LINES: usize = 16;

/// The lanes from left to right.
const LANES: [(&str, &[Lane], &str); 4] = [
    ("EL0", &[Lane::HostEl0], "#4a6fa5"),
    ("EL1 guest", &[Lane::GuestEl1, Lane::GuestEl0], "#3a8f5c"),
    ("EL1 host", &[Lane::HostEl1], "#c07a1e"),
    ("EL2", &[Lane::El2], "#b03a48"),
];

fn lane(lane: Lane) -> usize {
    LANES.iter().position(|(_, lanes, _)| lanes.contains(&lane)).unwrap_or(0)
}

pub fn draw(op: &str, panels: &[Panel]) -> String {
    let heights: Vec<usize> =
        panels.iter().map(|panel| panel.ladder.steps.iter().map(height).sum()).collect();
    let height = TOP + heights.iter().max().copied().unwrap_or(0) + 30;
    let width = panels.len() * (PANEL + GAP) + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>{}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        escape(op)
    );
    for (i, panel) in panels.iter().enumerate() {
        one(&mut svg, GAP + i * (PANEL + GAP), panel);
    }
    svg + "</svg>\n"
}

fn one(svg: &mut String, left: usize, panel: &Panel) {
    text(svg, left, 28, 16, "bold", "#222222", &panel.title);
    let steps = &panel.ladder.steps;
    let changes = steps.len().saturating_sub(1);
    let sum = |f: fn(&Step) -> &[(String, u32)]| -> u32 {
        steps.iter().flat_map(f).map(|(_, times)| times).sum()
    };
    let words = format!(
        "{} instructions, {changes} level changes, {} reads and {} writes of system registers",
        panel.instructions,
        sum(|step| &step.reads),
        sum(|step| &step.writes)
    );
    text(svg, left, 48, 11, "normal", "#444444", &words);
    let bottom = TOP + steps.iter().map(height).sum::<usize>();
    for (i, (name, _, colour)) in LANES.iter().enumerate() {
        let x = centre(left, i);
        *svg += &format!(
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\" \
             fill=\"{colour}\">{name}</text>\n",
            TOP - 18
        );
        *svg += &format!(
            "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>\n",
            TOP - 10
        );
    }
    let mut y = TOP;
    let mut before: Option<usize> = None;
    for step in steps {
        let here = lane(step.lane);
        let colour = LANES[here].2;
        if let Some(before) = before {
            arrow(svg, centre(left, before), centre(left, here), y, step.by.as_deref());
        }
        let tall = height(step);
        let x = centre(left, here);
        *svg += &format!(
            "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"{}\" rx=\"3\" fill=\"{colour}\"/>\n",
            x - 6,
            y + 1,
            tall - 2
        );
        let right = left + 4 * LANE + 6;
        let place = LANES[here].0;
        let head = format!("{place}: {} instructions", step.instructions);
        text(svg, right, y + 13, 11, "bold", colour, &head);
        for (i, line) in lines(step).iter().enumerate() {
            text(svg, right, y + 13 + (i + 1) * LINE, 10, "normal", "#333333", line);
        }
        y += tall;
        before = Some(here);
    }
}

fn centre(left: usize, lane: usize) -> usize {
    left + lane * LANE + LANE / 2
}

fn height(step: &Step) -> usize {
    (lines(step).len() + 1) * LINE + 12
}

fn arrow(svg: &mut String, from: usize, to: usize, y: usize, by: Option<&str>) {
    let (tip, start) = if to > from { (to - 7, from + 6) } else { (to + 7, from - 6) };
    let back = if to > from { tip - 6 } else { tip + 6 };
    *svg += &format!(
        "<path d=\"M{start} {y}H{tip}M{back} {}L{tip} {y}L{back} {}\" fill=\"none\" \
         stroke=\"#222222\"/>\n",
        y - 3,
        y + 3
    );
    if let Some(by) = by {
        *svg += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"9\" fill=\"#222222\">{}\
             </text>\n",
            (from + to) / 2,
            y - 3,
            escape(by)
        );
    }
}

pub fn text(
    svg: &mut String,
    x: usize,
    y: usize,
    size: usize,
    weight: &str,
    fill: &str,
    words: &str,
) {
    *svg += &format!(
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" font-weight=\"{weight}\" \
         fill=\"{fill}\">{}</text>\n",
        escape(words)
    );
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A step's words in lines.
fn lines(step: &Step) -> Vec<String> {
    let mut lines = Vec::new();
    for words in step.words() {
        let mut line = String::new();
        for word in words.split(' ') {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= WRAP {
                lines.push(std::mem::take(&mut line));
                line.push(' ');
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    if lines.len() > LINES {
        let more = lines.len() - LINES;
        lines.truncate(LINES);
        lines.push(format!("… and {more} more lines"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing() {
        let step = |lane, by: Option<&str>| Step {
            lane,
            instructions: 5,
            by: by.map(String::from),
            reads: vec![("ESR_EL2".into(), 1); 30],
            writes: Vec::new(),
            others: vec![("a<b".into(), 2)],
        };
        let steps = vec![step(Lane::GuestEl1, None), step(Lane::El2, Some("HVC"))];
        assert!(lines(&steps[0]).iter().all(|line| line.chars().count() <= WRAP + 1));
        let panel =
            Panel { title: "hypha vhe".into(), instructions: 10, ladder: Ladder { cpu: 0, steps } };
        let svg = draw("hypercall_null", &[panel]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(">HVC") && svg.contains("a&lt;b ×2"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
