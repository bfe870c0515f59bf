//! What a run of anything costs: the work that its operations declare, added up.

use engine::profile::Recorder;
use engine::{Cost, DType};

use crate::machine::Ceilings;

/// The operations of a run.
#[derive(Clone, Debug, Default)]
pub struct Work(Vec<(Cost, DType)>);

/// Runs `f`, and returns what the operations of this thread declared meanwhile.
pub fn work<R>(f: impl FnOnce() -> R) -> (R, Work) {
    let recorder = Recorder::new();
    let result = recorder.record(f);
    let recording = recorder.take();
    let all = recording.spans().filter_map(|span| {
        let operation = recording.operation(&span)?;
        let bf16 = operation.dtype == DType::BF16.name();
        Some((operation.cost, if bf16 { DType::BF16 } else { DType::F32 }))
    });
    let work = Work(all.collect());
    (result, work)
}

impl Work {
    /// All of it.
    pub fn total(&self) -> Cost {
        let add = |a: Cost, (b, _): &(Cost, DType)| Cost {
            flops: a.flops + b.flops,
            read: a.read + b.read,
            written: a.written + b.written,
        };
        self.0.iter().fold(Cost::default(), add)
    }

    /// Least seconds by the roofline, one operation after another, each with its own bytes as the working set, or with
    /// `shared` where that is more: what comes round again only after so many other bytes is in no cache by then.
    pub fn least_seconds(&self, ceilings: &Ceilings, shared: usize) -> f64 {
        let one = |(cost, dtype): &(Cost, DType)| {
            let own = (cost.read + cost.written) as usize;
            ceilings.least_seconds(cost, *dtype, own.max(shared)).0
        };
        self.0.iter().map(one).sum()
    }
}

#[cfg(test)]
mod tests {
    use engine::{Device, Tensor};

    use super::*;

    #[test]
    fn operations_of_both_passes_are_added_up() {
        let x = Tensor::from_slice(&[1f32; 6], &[2, 3], &Device::cpu()).unwrap().tracked();
        let w = Tensor::from_slice(&[1f32; 12], &[3, 4], &Device::cpu()).unwrap();
        let (y, forward) = work(|| x.matmul(&w).unwrap());
        assert_eq!(forward.total(), Cost { flops: 48, read: 72, written: 32 });
        let ((), backward) = work(|| drop(y.sum(&[0, 1]).unwrap().backward().unwrap()));
        assert!(backward.total().flops >= 48, "{:?}", backward.total());
        assert_eq!(work(|| ()).1.total(), Cost::default(), "nothing outside is counted");
    }
}
