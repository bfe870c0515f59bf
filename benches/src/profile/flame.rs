//! The tree as an icicle: time from left to right, what is inside below.

use std::fmt::Write as _;

use eval::html::escape;

use super::Row;
use super::tree::{Kind, Node};
use crate::units::{share, time};

const WIDTH: f64 = 1200.0;
const ROW: f64 = 22.0;
/// Mean width of a letter.
const LETTER: f64 = 6.4;
/// Narrower boxes are left out, in units of the picture.
const NARROWEST: f64 = 0.35;

/// The picture. `page.js` makes boxes that are clicked as wide as the picture.
pub(super) fn svg(tree: &Node, operations: &[Row]) -> String {
    let height = ROW * tree.depth() as f64;
    let svg = format!(
        "<svg class=\"flame\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"time by phase, module and operation\">\n"
    );
    // Neighbours in the order of their time get hues far from each other (the golden angle).
    let place = |name: &str| operations.iter().position(|row| row.name == name).unwrap_or(0);
    let hue = |name: &str| 205 + place(name) * 1375 / 10 % 360;
    let mut picture = Picture { svg, whole: tree.ns.max(1), hue: &hue };
    picture.draw(tree, 0.0, 0, "");
    picture.svg + "</svg>\n"
}

struct Picture<'a> {
    svg: String,
    whole: u64,
    hue: &'a dyn Fn(&str) -> usize,
}

impl Picture<'_> {
    fn draw(&mut self, node: &Node, x: f64, depth: usize, path: &str) {
        let whole = self.whole;
        let width = WIDTH * node.ns as f64 / whole as f64;
        if width < NARROWEST {
            return;
        }
        let path = match (path, node.kind) {
            (_, Kind::All) => String::new(),
            ("", _) => node.name.clone(),
            (outer, _) => format!("{outer} › {}", node.name),
        };
        let (class, colour) = match node.kind {
            Kind::All => ("all", 0),
            Kind::Phase => ("phase", 0),
            Kind::Module => ("module", 0),
            Kind::Op => ("op", (self.hue)(&node.name)),
            Kind::Gap => ("gap", 0),
        };
        let name = if node.kind == Kind::All { "everything" } else { &node.name };
        let letters = ((width - 8.0) / LETTER).max(0.0) as usize;
        let label = if letters < 3 { String::new() } else { cut(name, letters) };
        let style = if node.kind == Kind::Op { format!(" style=\"--h:{colour}\"") } else { String::new() };
        let _ = writeln!(
            self.svg,
            "<g class=\"{class}\"{style} data-x=\"{:.6}\" data-w=\"{:.6}\" data-n=\"{}\"><title>{}\n{}, {} of all</title>\
             <rect x=\"{x:.2}\" y=\"{}\" width=\"{width:.2}\" height=\"{}\"/><text x=\"{:.2}\" y=\"{}\">{}</text></g>",
            x / WIDTH,
            width / WIDTH,
            escape(name),
            escape(if path.is_empty() { "everything" } else { &path }),
            time(node.ns),
            share(node.ns, whole),
            depth as f64 * ROW,
            ROW - 1.0,
            x + 4.0,
            depth as f64 * ROW + 15.0,
            escape(&label)
        );
        let mut x = x;
        for child in &node.children {
            self.draw(child, x, depth + 1, &path);
            x += WIDTH * child.ns as f64 / whole as f64;
        }
    }
}

fn cut(name: &str, letters: usize) -> String {
    if name.chars().count() <= letters {
        return name.to_owned();
    }
    let short: String = name.chars().take(letters - 1).collect();
    format!("{short}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::profile::trace::tests::invented;

    #[test]
    fn every_box_lies_in_the_one_above() {
        let profile = Profile::new("t", &invented(), None);
        let svg = svg(&profile.tree, &profile.operations);
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
        let boxes: Vec<(f64, f64)> = svg
            .split("<rect x=\"")
            .skip(1)
            .map(|rect| {
                let number = |text: &str| text.split('"').next().unwrap().parse::<f64>().unwrap();
                (number(rect), number(rect.split("width=\"").nth(1).unwrap()))
            })
            .collect();
        assert!(boxes.len() > 10 && boxes.iter().all(|(x, w)| *x >= 0.0 && x + w <= WIDTH + 0.02));
        assert!(svg.contains("forward › model › layers.* › matmul"));
    }

    #[test]
    fn names_are_cut_to_their_box() {
        assert_eq!(cut("matmul", 6), "matmul");
        assert_eq!(cut("matmul", 4), "mat…");
    }
}
