//! A profile on the terminal.

use super::Profile;
use crate::units::{bytes, grouped, share, time};

/// Rows of the table by shapes that a terminal gets; the page has more.
const KERNELS: usize = 12;

/// Said where percentages of the roofline are not there.
pub(super) const NO_CEILINGS: &str =
    "Percent of the roofline needs this machine's ceilings: `roentgen bench machine` measures them.";

impl Profile {
    /// What is said first.
    pub(super) fn headline(&self) -> String {
        let mut text = format!(
            "{} in all: {} in {} kernels ({}), {} in none",
            time(self.wall_ns),
            time(self.kernel_ns),
            grouped(self.calls()),
            share(self.kernel_ns, self.wall_ns),
            time(self.gap_ns)
        );
        let peak = self.memory.peak.total();
        if peak > 0 {
            text = format!("{text}; at most {} of tensors", bytes(peak as f64));
            if !self.memory.peak_phase.is_empty() {
                text = format!("{text} (in {})", self.memory.peak_phase);
            }
        }
        text
    }

    /// What is missing, a line each.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.dropped > 0 {
            notes.push(format!(
                "{} spans and changes of memory came when there was no more room and are not here; --room keeps more.",
                grouped(self.dropped)
            ));
        }
        if !self.has_ceilings {
            notes.push(NO_CEILINGS.to_owned());
        }
        notes
    }

    /// Headline and tables.
    pub fn to_text(&self) -> String {
        let mut parts = vec![format!("{}: {}\n", self.title, self.headline())];
        parts.push(self.phase_table().to_text());
        parts.push(self.operation_table().to_text());
        if !self.folded.is_empty() {
            parts.push(self.module_table(false).to_text());
        }
        parts.push(self.kernel_table(KERNELS).to_text());
        parts.extend(self.notes().iter().map(|note| format!("{note}\n")));
        parts.join("\n")
    }
}
