//! The tests of behaviour: from the command line and at the library's seams. One program, so that it links once.

mod backend_conformance;
mod format_doc;
mod support;
mod tidy;
