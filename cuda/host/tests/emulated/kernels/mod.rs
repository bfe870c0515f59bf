//! Each kernel, called as `cuda/README.md` says, against the operation in f64 with the project's tolerances: under the four schedules; once more with
//! sanitizers (`sanitized`); on a GPU with `ROENTGEN_CUDA=device`. Operations are captured on the CPU, which gives inputs and parameters; the oracle
//! looks at what the kernels make of them. Every schedule must give the same bits.

mod attention;
mod call;
mod draw;
mod elementwise;
mod ids;
mod linear_nf4;
mod matmul;
mod quantized;
mod rows;
mod updates;

use std::cell::RefCell;
use std::collections::BTreeMap;

use engine::{Application, Tensor};

use crate::session::{Session, check};
use draw::Draw;

/// `make` draws `count` applications; `run` computes each with kernels, and the oracle compares every output.
pub(crate) fn property(
    count: u64,
    make: impl Fn(&mut Draw) -> Application,
    run: impl Fn(&Session, &Application) -> Vec<Tensor>,
) {
    let cases: Vec<_> = (0..count).map(|seed| (make(&mut Draw::new(seed)), ())).collect();
    hold(&cases, |session, application, ()| run(session, application));
}

/// Runs each case under every schedule: the oracle takes the outputs, and they are the same bits each time.
pub(crate) fn hold<C>(cases: &[(Application, C)], run: impl Fn(&Session, &Application, &C) -> Vec<Tensor>) {
    let seen: RefCell<BTreeMap<usize, Vec<Vec<u8>>>> = RefCell::default();
    check(|session| {
        for (i, (application, case)) in cases.iter().enumerate() {
            let outputs = run(session, application, case);
            agrees(application, &outputs);
            let bits: Vec<Vec<u8>> = outputs.iter().map(|y| y.to_bytes().expect("a CPU tensor")).collect();
            let mut seen = seen.borrow_mut();
            let first = seen.entry(i).or_insert_with(|| bits.clone());
            assert!(*first == bits, "{application:?}: another schedule gives other bits");
        }
    });
}

/// Asserts that the oracle takes these outputs.
pub(crate) fn agrees(application: &Application, outputs: &[Tensor]) {
    let what = || format!("{application:?} {}", application.parameters());
    let outcome =
        roentgen_oracle::replay::judge(application, outputs).unwrap_or_else(|e| panic!("{}: {e}", what()));
    if let Err(failed) = outcome {
        panic!("{}: {failed}", what());
    }
}
