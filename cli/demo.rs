//! The demonstration model, which is part of the program.

use model::bundle::Embedded;

/// The content of a file at an address that tensors can be read from in place.
#[allow(unused_macros, reason = "not used where the build found no model")]
macro_rules! aligned {
    ($path:expr) => {{
        #[repr(align(64))]
        struct Aligned<B: ?Sized>(B);
        static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &FILE.0
    }};
}

/// Every file that the build found in `assets/demo`.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/demo_files.rs"));

/// The model; `None` if the program was built without it.
pub(crate) fn model() -> Option<Embedded> {
    (!FILES.is_empty()).then_some(Embedded { name: "assets/demo", files: FILES })
}

/// One of its files as text, for commands that look at a model without opening it.
pub(crate) fn text(name: &str) -> Option<&'static str> {
    let bytes = FILES.iter().find(|file| file.0 == name)?.1;
    std::str::from_utf8(bytes).ok()
}
