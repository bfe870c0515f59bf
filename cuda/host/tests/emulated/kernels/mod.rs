//! Each kernel, called as `cuda/README.md` says, against the operation in f64 with the project's tolerances: under the four schedules; once more with
//! sanitizers (`sanitized`); on a GPU with `ROENTGEN_CUDA=device`. Operations are captured on the CPU, which gives inputs and parameters; the oracle
//! looks at what the kernels make of them.

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

use engine::{Application, Tensor};

use crate::session::{Session, check};
use draw::Draw;

/// `make` draws `count` applications; `run` computes each with kernels, and the oracle compares every output.
pub(crate) fn property(
    count: u64,
    make: impl Fn(&mut Draw) -> Application,
    run: impl Fn(&Session, &Application) -> Vec<Tensor>,
) {
    let applications: Vec<Application> = (0..count).map(|seed| make(&mut Draw::new(seed))).collect();
    check(|session| {
        for application in &applications {
            agrees(application, &run(session, application));
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
