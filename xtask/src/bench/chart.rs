//! The chart of all operations: bars of each kernel and mode, each operation to its
//! own scale.

use super::operation::{OPERATIONS, Operation};
use super::record::{Kernel, Record};
use super::svg::text;
use super::table;

const COLUMNS: usize = 3;
const WIDTH: usize = 400;
const GAP: usize = 20;
const TOP: usize = 70;
/// A panel's title, a bar, and what is below the bars.
const TITLE: usize = 22;
const BAR: usize = 15;
const FOOT: usize = 14;
/// Words to the left of a bar, and to the right of the longest.
const NAME: usize = 96;
const VALUE: usize = 92;

/// A kernel in a mode has the same colour everywhere.
fn colour(kernel: Kernel, mode: &str) -> &'static str {
    match (kernel, mode) {
        (Kernel::Linux, "vhe") => "#8a97a8",
        (Kernel::Linux, "nvhe") => "#a9b3c0",
        (Kernel::Linux, _) => "#c8cfd8",
        (Kernel::Hypha, "vhe") => "#2f8f5b",
        (Kernel::Hypha, "nvhe") => "#5fb083",
        (Kernel::Hypha, _) => "#8fcaa8",
        (Kernel::Xen, _) => "#d18b2c",
    }
}

pub fn draw(records: &[Record], cpu: &str) -> String {
    let columns = table::columns(records, cpu);
    let of = |operation: &Operation| -> Vec<&Record> {
        let find = |(kernel, mode): &(Kernel, String)| {
            records.iter().find(|r| {
                r.cpu == cpu && r.op == operation.name && r.kernel == *kernel && r.mode == *mode
            })
        };
        columns.iter().filter_map(find).collect()
    };
    let panels: Vec<_> = OPERATIONS.iter().map(|op| (op, of(op))).collect();
    let panels: Vec<_> = panels.into_iter().filter(|(_, bars)| !bars.is_empty()).collect();
    let tall = |(_, bars): &(&Operation, Vec<&Record>)| TITLE + bars.len() * BAR + FOOT;
    let rows: Vec<_> = panels.chunks(COLUMNS).collect();
    let heights: Vec<usize> =
        rows.iter().map(|row| row.iter().map(tall).max().unwrap_or(0)).collect();
    let height = TOP + heights.iter().sum::<usize>() + GAP;
    let width = COLUMNS * (WIDTH + GAP) + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>What each operation costs</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let title = format!("What each operation costs (-cpu {cpu})");
    text(&mut svg, GAP, 28, 16, "bold", "#222222", &title);
    let words = "Instructions where nothing else is said. Each operation has its own scale; \
                 shorter is better.";
    text(&mut svg, GAP, 48, 11, "normal", "#444444", words);
    let mut y = TOP;
    for (row, height) in rows.iter().zip(&heights) {
        for (column, (operation, bars)) in row.iter().enumerate() {
            panel(&mut svg, GAP + column * (WIDTH + GAP), y, operation, bars);
        }
        y += height;
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, left: usize, top: usize, operation: &Operation, bars: &[&Record]) {
    text(svg, left, top + 13, 12, "bold", "#222222", operation.name);
    let most = bars.iter().map(|record| record.value).max().unwrap_or(1).max(1);
    let room = (WIDTH - NAME - VALUE) as u64;
    for (i, record) in bars.iter().enumerate() {
        let y = top + TITLE + i * BAR;
        let long = (record.value * room / most).max(1);
        let fill = colour(record.kernel, &record.mode);
        let name = format!("{} {}", record.kernel.name(), record.mode);
        text(svg, left, y + 10, 10, "normal", "#444444", &name);
        *svg += &format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{long}\" height=\"{}\" fill=\"{fill}\"/>\n",
            left + NAME,
            y + 1,
            BAR - 4
        );
        let value = table::value(operation.unit, record.value);
        let weight = if record.kernel == Kernel::Hypha { "bold" } else { "normal" };
        text(svg, left + NAME + long as usize + 5, y + 10, 10, weight, "#222222", &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        let record =
            |kernel, mode: &str, value| Record::new("hypercall_null", kernel, mode, "max", value);
        let records = [record(Kernel::Linux, "vhe", 1314), record(Kernel::Hypha, "vhe", 97)];
        let svg = draw(&records, "max");
        assert!(svg.contains("1,314") && svg.contains(">97<"));
        let longest = format!("width=\"{}\"", WIDTH - NAME - VALUE);
        assert_eq!(svg.matches(&longest).count(), 1);
        assert!(!draw(&records, "cortex-a72").contains("hypercall_null"));
    }
}
