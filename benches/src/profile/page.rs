//! A profile as one self-contained page.

use eval::html::{escape, page};

use super::{Profile, area, flame};
use crate::units::{bytes, grouped, share, time};

const STYLE: &str = include_str!("page.css");
/// Makes boxes of the flame view wide on a click; the page says everything without it.
const SCRIPT: &str = include_str!("page.js");
/// Rows of the table by shapes.
const KERNELS: usize = 60;
/// Layers one by one only while the page stays small.
const MODULES: usize = 3000;

impl Profile {
    /// The page: needs nothing else, works from a file.
    pub fn to_html(&self) -> String {
        let title = format!("roentgen profile: {}", self.title);
        let mut parts = vec![format!("<style>{STYLE}</style>"), self.tiles()];
        parts.extend(self.notes().iter().map(|note| format!("<p class=\"note\">{}</p>", escape(note))));
        let mut section = |name: &str, help: &str, body: String| {
            if !body.is_empty() {
                parts.push(format!("<h2>{}</h2>\n<p class=\"help\">{}</p>", escape(name), escape(help)));
                parts.push(body);
            }
        };
        section(
            "Where the time went",
            "Phases, the modules in them (layers added up), their kernels. Grey: in no kernel. A click widens a box, a click on the first row goes back.",
            flame::svg(&self.tree, &self.operations),
        );
        section(
            "By phase",
            "Time in kernels and in none; a phase includes those below it.",
            self.phase_table().to_html(),
        );
        section(
            "By operation",
            "FLOP and bytes as the operations declare them: every input read once, every output written once.",
            self.operation_table().to_html(),
        );
        let mut modules = String::new();
        if !self.folded.is_empty() {
            modules = self.module_table(false).to_html();
            if self.modules.len() > self.folded.len() && self.modules.len() <= MODULES {
                let whole = self.module_table(true).to_html();
                modules += "<details><summary>each layer by itself</summary>\n";
                modules += &whole;
                modules += "</details>";
            }
        }
        section(
            "By module",
            "Layers added up. A module includes those below it, and its gradients.",
            modules,
        );
        section("Memory", "Bytes of tensors by tag, phases above.", area::svg(&self.memory, self.wall_ns));
        section(
            "By operation and shapes",
            "Most time first; `roentgen bench op NAME` measures one of them alone.",
            self.kernel_table(KERNELS).to_html(),
        );
        for other in &self.elsewhere {
            let rows: Vec<String> = other
                .phases
                .iter()
                .map(|p| format!("{} {} ({} times)", escape(&p.path), time(p.ns), grouped(p.calls)))
                .collect();
            parts.push(format!(
                "<p class=\"note\">Thread {}: {}</p>",
                escape(&other.thread),
                rows.join(", ")
            ));
        }
        parts.push(format!("<script>\n{SCRIPT}</script>"));
        page(&title, &parts)
    }

    /// The figures that are looked at first.
    fn tiles(&self) -> String {
        let tile = |value: String, name: &str| {
            format!("<div><b>{}</b><span>{}</span></div>", escape(&value), escape(name))
        };
        let mut tiles = vec![
            tile(time(self.wall_ns), "in all"),
            tile(share(self.kernel_ns, self.wall_ns), "in kernels"),
            tile(time(self.gap_ns), "in no kernel"),
            tile(grouped(self.calls()), "kernels"),
        ];
        let peak = self.memory.peak.total();
        if peak > 0 {
            let phase = &self.memory.peak_phase;
            let name = if phase.is_empty() {
                "tensors at most".into()
            } else {
                format!("tensors at most, in {phase}")
            };
            tiles.push(tile(bytes(peak as f64), &name));
        }
        format!("<div class=\"tiles\">{}</div>", tiles.join(""))
    }
}

#[cfg(test)]
mod tests {
    use crate::profile::Profile;
    use crate::profile::trace::tests::invented;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let profile = Profile::new("report <x>.png", &invented(), Some(&|_| Some(1e-6)));
        let html = profile.to_html();
        assert!(html.ends_with("</html>\n") && html.contains("report &lt;x&gt;.png"));
        for tag in ["table", "svg", "details", "div", "tbody"] {
            let (open, close) =
                (html.matches(&format!("<{tag}")).count(), html.matches(&format!("</{tag}>")).count());
            assert_eq!(open, close, "{tag}");
        }
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            let html = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn the_tables_say_what_was_recorded() {
        let profile = Profile::new("t", &invented(), Some(&|_| Some(1e-6)));
        assert_eq!(profile.kernel_ns, 16_000 + 10_000 + 8_998 + 17_000 + 500);
        assert_eq!(profile.kernel_ns + profile.gap_ns, profile.wall_ns);
        let product = &profile.operations[0];
        assert_eq!((product.name.as_str(), product.sum.calls), ("matmul", 3));
        assert_eq!(product.sum.ns, 16_000 + 8_998 + 17_000);
        // Three times a microsecond at best.
        let percent = product.sum.percent().unwrap();
        assert!((percent - 100.0 * 3000.0 / 41_998.0).abs() < 1e-9);
        let folded: Vec<&str> = profile.folded.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(folded, ["model", "model.layers.*"]);
        assert_eq!(profile.folded[0].sum.ns, 16_000 + 10_000 + 8_998 + 17_000 + 1_000);
        let phases: Vec<_> = profile.phases.iter().map(|p| (p.path.as_str(), p.ns, p.kernels.ns)).collect();
        assert_eq!(
            phases,
            [
                ("forward", 49_000, 16_000 + 10_000 + 8_998 + 500),
                ("backward", 30_000, 17_000),
                ("backward/vision", 19_000, 17_000),
                ("", 21_000, 0)
            ]
        );
        assert_eq!(profile.elsewhere[0].phases[0].path, "image");
        let device = profile.operations.iter().find(|row| row.clock.contains("own clock")).unwrap();
        assert_eq!(device.sum.ns, 1000);
        let text = profile.to_text();
        assert!(text.contains("By phase") && text.contains("matmul") && text.contains("roofline"), "{text}");
    }
}
