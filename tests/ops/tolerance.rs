//! The oracle's tolerances, as a property's outcome.

use proptest::test_runner::TestCaseError;
use roentgen_oracle::tolerance;

use crate::harness::{Check, Expect};

pub(crate) use tolerance::Class;

/// Compares element by element.
pub(crate) fn close(got: &[f64], expect: &Expect) -> Check {
    tolerance::close(got, expect).map(drop).map_err(|mismatch| TestCaseError::fail(mismatch.to_string()))
}
