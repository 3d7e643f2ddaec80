//! The tests of behaviour: from the command line and at the library's seams. One program, so that it links once.

mod backend_conformance;
mod changes;
mod cli;
mod disks;
mod extents;
mod flips;
mod format_doc;
mod frozen;
mod fuzz;
mod hostile;
mod interruptions;
mod many;
mod meetings;
mod objects;
mod pack_sweeps;
mod packs;
mod races;
mod repair;
mod resumed;
mod retention;
mod roundtrip;
mod support;
mod sweeps;
mod syscalls;
mod ticks;
mod tidy;
