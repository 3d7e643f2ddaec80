//! The one place that asks the system who and where we are; the library is told.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::{env, thread};

use backuptool::{Error, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The user's home directory.
pub(super) fn home() -> Option<PathBuf> {
    env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

/// The name of this machine.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of the user, or the number where there is none.
pub(super) fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(env::var_os).filter(|name| !name.is_empty());
    named.map_or_else(|| rustix::process::getuid().as_raw().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The time zone of this machine.
pub(super) fn time_zone() -> TimeZone {
    TimeZone::system()
}

/// The time now, to the millisecond.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// One thread a core.
pub(super) fn cores() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}

/// The path from the root, in one spelling: without `.`, doubled slashes and a slash at its end. Links in it stay.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map(|path| path.components().collect());
    absolute.map_err(|error| Error::io("find the absolute path of", path, error))
}
