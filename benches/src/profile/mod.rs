//! What a recording says: tables by operation, module and phase, time in no kernel, memory over time; a page and a trace.
//!
//! ```
//! use engine::{DType, Device, Tensor, profile};
//! let x = Tensor::zeros(&[64, 64], DType::F32, &Device::cpu())?;
//! let recorder = profile::Recorder::new();
//! recorder.record(|| x.matmul(&x))?;
//! let profile = bench::profile::Profile::new("a product", &recorder.take(), None);
//! assert_eq!(profile.operations[0].name, "matmul");
//! assert_eq!(profile.kernel_ns + profile.gap_ns, profile.wall_ns);
//! print!("{}", profile.to_text());
//! # Ok::<(), engine::Error>(())
//! ```

mod account;
mod area;
mod flame;
mod memory;
mod page;
mod roofline;
mod table;
mod text;
mod trace;
mod tree;

use std::collections::{BTreeMap, HashMap};

use engine::profile::{Operation, Recording, What};
use serde::Serialize;

use account::{Slice, main_thread, slices};
pub use memory::{Moment, Timeline};
pub use roofline::{ByDevice, least_seconds, stored_ceilings};
pub use trace::write_trace;
pub use tree::{Kind, Node};

/// Least seconds that an application of an operation could take on its device, by the device's ceilings; `None` where
/// they are not known.
pub type Roofline<'a> = &'a dyn Fn(&Operation) -> Option<f64>;

/// Work and time of some kernels.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sum {
    /// Applications.
    pub calls: u64,
    /// Time in them.
    pub ns: u64,
    /// Floating-point operations, as declared.
    pub flops: u64,
    /// Bytes read and written, as declared.
    pub bytes: u64,
    /// Least nanoseconds by the roofline, of those whose ceilings are known.
    pub least_ns: f64,
    /// Time in those.
    pub known_ns: u64,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.ns += other.ns;
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.least_ns += other.least_ns;
        self.known_ns += other.known_ns;
    }

    /// 10⁹ operations a second.
    pub fn gflops(&self) -> f64 {
        if self.ns == 0 { 0.0 } else { self.flops as f64 / self.ns as f64 }
    }

    /// 10⁹ bytes a second.
    pub fn gbytes(&self) -> f64 {
        if self.ns == 0 { 0.0 } else { self.bytes as f64 / self.ns as f64 }
    }

    /// Percent of the roofline; `None` without ceilings.
    pub fn percent(&self) -> Option<f64> {
        (self.known_ns > 0).then(|| 100.0 * self.least_ns / self.known_ns as f64)
    }
}

/// A row of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Operation, or path of a module.
    pub name: String,
    /// Shapes, where rows are by them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub shapes: String,
    /// Device and whose clock it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub clock: String,
    /// Its kernels; of a module, those of the modules in it, too.
    #[serde(flatten)]
    pub sum: Sum,
}

/// A phase.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// As `forward/vision`; empty for what is in no phase.
    pub path: String,
    /// How often it was entered.
    pub calls: u64,
    /// Time from entering to leaving, the phases in it included.
    pub ns: u64,
    /// Its kernels, those of the phases in it included.
    pub kernels: Sum,
}

impl Phase {
    /// Time in no kernel.
    pub fn gap_ns(&self) -> u64 {
        self.ns.saturating_sub(self.kernels.ns)
    }
}

/// Phases of another thread.
#[derive(Clone, Debug, Serialize)]
pub struct Elsewhere {
    /// Name of the thread.
    pub thread: String,
    /// Its phases.
    pub phases: Vec<Phase>,
}

/// A recording in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// What ran.
    pub title: String,
    /// From the start of recording to its end.
    pub wall_ns: u64,
    /// Of it, time in kernels of the thread that ran most of them.
    pub kernel_ns: u64,
    /// And the rest.
    pub gap_ns: u64,
    /// By operation, most time first.
    pub operations: Vec<Row>,
    /// By operation and shapes, most time first.
    pub kernels: Vec<Row>,
    /// By module, in the order in which they first ran.
    pub modules: Vec<Row>,
    /// The same with layers added up: `model.layers.*.mlp`.
    pub folded: Vec<Row>,
    /// By phase, in the order in which they first began; what is in no phase comes last.
    pub phases: Vec<Phase>,
    /// Phases of other threads.
    pub elsewhere: Vec<Elsewhere>,
    /// Where the time went: phase, module, operation.
    pub tree: Node,
    /// Bytes by tag over time.
    pub memory: Timeline,
    /// Spans and changes of memory that there was no room for.
    pub dropped: u64,
    /// Whether the percentages of the roofline are there.
    pub has_ceilings: bool,
}

impl Profile {
    /// Adds up `recording` of the program `title`.
    pub fn new(title: &str, recording: &Recording, roofline: Option<Roofline<'_>>) -> Self {
        let main = main_thread(recording);
        let of_main: Vec<Slice> = slices(recording, main);
        let kernel_ns = of_main.iter().filter(|s| s.op.is_some()).map(|s| s.ns).sum();
        let wall_ns = recording.end - recording.start;

        let work = account::kernels(recording, &of_main, main);
        let least: Vec<Option<f64>> =
            recording.operations.iter().map(|op| roofline.and_then(|least| least(op))).collect();
        let sum = |number: u32, ns: u64, calls: u64| {
            let cost = &recording.operations[number as usize].cost;
            let least = least[number as usize];
            Sum {
                calls,
                ns,
                flops: cost.flops * calls,
                bytes: (cost.read + cost.written) * calls,
                least_ns: least.map_or(0.0, |seconds| seconds * 1e9 * calls as f64),
                known_ns: if least.is_some() { ns } else { 0 },
            }
        };

        let mut by_op = Rows::default();
        let mut by_shape = Rows::default();
        let mut by_module = Rows::default();
        let mut by_folded = Rows::default();
        let mut by_phase: HashMap<u32, Sum> = HashMap::new();
        for kernel in &work {
            let op = &recording.operations[kernel.number as usize];
            let sum = sum(kernel.number, kernel.ns, kernel.calls);
            let clock = account::clock_name(&op.device, kernel.clock);
            by_op.add([&op.name, "", &clock], &sum);
            by_shape.add([&op.name, &op.shapes, &clock], &sum);
            let path = recording.modules.get(kernel.module as usize).map_or("", String::as_str);
            tree::prefixes(path).for_each(|path| by_module.add([path, "", ""], &sum));
            let folded = tree::fold(path);
            tree::prefixes(&folded).for_each(|path| by_folded.add([path, "", ""], &sum));
            if kernel.main {
                by_phase.entry(kernel.phase).or_default().add(&sum);
            }
        }
        let (phases, elsewhere) = account::phases(recording, main, &by_phase);
        Self {
            title: title.to_owned(),
            wall_ns,
            kernel_ns,
            gap_ns: wall_ns - kernel_ns,
            operations: by_op.by_time(),
            kernels: by_shape.by_time(),
            modules: by_module.into_tree(),
            folded: by_folded.into_tree(),
            phases,
            elsewhere,
            tree: tree::build(recording, &of_main),
            memory: Timeline::new(recording, main, 600),
            dropped: recording.dropped,
            has_ceilings: least.iter().any(Option::is_some),
        }
    }

    /// As JSON, for other programs.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Spans of kernels in the recording.
    pub fn calls(&self) -> u64 {
        self.operations.iter().map(|row| row.sum.calls).sum()
    }
}

/// Rows in the order in which they first came.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    at: HashMap<[String; 3], usize>,
}

impl Rows {
    fn add(&mut self, [name, shapes, clock]: [&str; 3], sum: &Sum) {
        let key = [name, shapes, clock].map(str::to_owned);
        let at = *self.at.entry(key).or_insert_with_key(|[name, shapes, clock]| {
            let (name, shapes, clock) = (name.clone(), shapes.clone(), clock.clone());
            self.rows.push(Row { name, shapes, clock, sum: Sum::default() });
            self.rows.len() - 1
        });
        self.rows[at].sum.add(sum);
    }

    fn by_time(mut self) -> Vec<Row> {
        self.rows.sort_by_key(|row| std::cmp::Reverse(row.sum.ns));
        self.rows
    }

    /// Modules after the ones that they are in, siblings as they first came.
    fn into_tree(self) -> Vec<Row> {
        let mut children: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, row) in self.rows.iter().enumerate() {
            children.entry(tree::parent(&row.name)).or_default().push(i);
        }
        let mut order = Vec::new();
        let mut next: Vec<usize> = children.get("").cloned().unwrap_or_default();
        next.reverse();
        while let Some(i) = next.pop() {
            order.push(i);
            next.extend(children.get(self.rows[i].name.as_str()).into_iter().flatten().rev());
        }
        order.into_iter().map(|i| self.rows[i].clone()).collect()
    }
}

fn is_op(what: What) -> bool {
    matches!(what, What::Op(_))
}
