//! The threads of an operation, and what they may hold open.

use std::collections::VecDeque;
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, bounded};
use rayon::{Scope, ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::fs::open_file_budget;

/// A pool of `threads` threads.
pub(super) fn pool(threads: NonZero<usize>) -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|number| format!("worker-{number}"))
        .build()
        .map_err(|error| Error::io("start threads for", "this operation", std::io::Error::other(error.to_string())))
}

/// Work that is done by whoever comes first: a thread that has nothing better to do, or the one that needs the result.
/// So it is never waited for while nobody does it. What is dropped before anybody began is not done.
pub(super) struct Ahead<'a, T> {
    work: Shared<'a, T>,
    result: Receiver<T>,
}

type Work<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;
type Shared<'a, T> = Arc<Mutex<Option<Work<'a, T>>>>;

fn begin<'a, T>(work: &Shared<'a, T>) -> Option<Work<'a, T>> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl<T: Send + 'static> Ahead<'static, T> {
    /// Offers work to the threads of a pool.
    pub(super) fn offer(threads: &ThreadPool, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (ahead, offered) = Self::new(work);
        threads.spawn(offered);
        ahead
    }
}

impl<'a, T: Send + 'a> Ahead<'a, T> {
    /// Offers work to helpers, as the last of what they have to do.
    pub(super) fn offer_to(helpers: &Helpers<'_, 'a>, work: impl FnOnce() -> T + Send + 'a) -> Self {
        let (ahead, offered) = Self::new(work);
        helpers.offer(offered);
        ahead
    }

    /// The work, and what a thread does that has nothing better to do.
    fn new(work: impl FnOnce() -> T + Send + 'a) -> (Self, impl FnOnce() + Send + 'a) {
        let work: Shared<'a, T> = Arc::new(Mutex::new(Some(Box::new(work))));
        let (sender, result) = bounded(1);
        let offered = Arc::clone(&work);
        let begun = move || {
            if let Some(work) = begin(&offered) {
                // Nobody listens any more if the operation has failed.
                sender.send(work()).unwrap_or_default();
            }
        };
        (Self { work, result }, begun)
    }
}

impl<T> Ahead<'_, T> {
    /// The result. Nothing if the thread that began it is gone, which takes a panic; and that ends the program.
    pub(super) fn finish(self) -> Option<T> {
        match begin(&self.work) {
            Some(work) => Some(work()),
            None => self.result.recv().ok(),
        }
    }

    /// The result, if it is there.
    pub(super) fn finished(&self) -> Option<T> {
        self.result.try_recv().ok()
    }
}

impl<T> Drop for Ahead<'_, T> {
    fn drop(&mut self) {
        drop(begin(&self.work));
    }
}

/// The threads of a pool that have nothing better to do, for the work of one thread: they do it in the order in which it was
/// offered, and so does that thread when there is enough of it ([`Helpers::help`]). There are no more jobs for the pool
/// than helpers, however much is offered while all of its threads are busy.
pub(super) struct Helpers<'s, 'scope> {
    scope: &'s Scope<'scope>,
    most: usize,
    queue: Arc<Mutex<Queue<'scope>>>,
}

#[derive(Default)]
struct Queue<'a> {
    waiting: VecDeque<Work<'a, ()>>,
    /// Those who will look whether something is waiting.
    helpers: usize,
}

impl<'s, 'scope> Helpers<'s, 'scope> {
    /// None yet, of the pool that the scope is in.
    pub(super) fn new(scope: &'s Scope<'scope>) -> Self {
        Self { scope, most: 0, queue: Arc::default() }
    }

    /// From now on there may be so many.
    pub(super) fn allow(&mut self, most: usize) {
        self.most = most;
    }

    fn queue(&self) -> MutexGuard<'_, Queue<'scope>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, work: impl FnOnce() + Send + 'scope) {
        let mut queue = self.queue();
        queue.waiting.push_back(Box::new(work));
        if queue.helpers < self.most {
            queue.helpers += 1;
            let queue = Arc::clone(&self.queue);
            self.scope.spawn(move |_| {
                while let Some(work) = next(&queue) {
                    work();
                }
            });
        }
    }

    /// Does what has been waiting longest, again and again, until no more is left than so much for each helper.
    pub(super) fn help(&self, left_for_each: usize) {
        let first_of_too_many = || {
            let mut queue = self.queue();
            let is_too_much = queue.waiting.len() > left_for_each * self.most;
            is_too_much.then(|| queue.waiting.pop_front()).flatten()
        };
        while let Some(work) = first_of_too_many() {
            work();
        }
    }
}

/// What a helper does next. Nothing if it goes: it says so under the lock under which others see whether there are helpers.
fn next<'a>(queue: &Mutex<Queue<'a>>) -> Option<Work<'a, ()>> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let work = queue.waiting.pop_front();
    if work.is_none() {
        queue.helpers -= 1;
    }
    work
}

/// So many directory handles may be held at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handles {
    /// Groups of files that wait for the threads, or are dealt with by them.
    pub(super) groups: usize,
    /// The directories that the files of one group may be in.
    pub(super) dirs: usize,
    /// The directories that are open one below the other.
    pub(super) depth: usize,
    /// The directories that may be open before the walk comes to them.
    pub(super) ahead: usize,
}

/// More directories in a group, and ahead of the walk, bring nothing.
const MOST_DIRS: usize = 128;
const MOST_AHEAD: usize = 256;

impl Handles {
    /// As many as keep so many threads busy, within what the process may have open.
    pub(super) fn for_threads(threads: NonZero<usize>) -> Self {
        let groups = 2 * threads.get() + 2;
        let budget = open_file_budget();
        // A quarter for the groups, a half for the depth, an eighth for what is ahead, the rest for the files themselves.
        let dirs = (budget / 4 / (groups + 1)).clamp(1, MOST_DIRS);
        Self { groups, dirs, depth: budget / 2, ahead: (budget / 8).min(MOST_AHEAD) }
    }
}

/// The error for a directory below which no more handles are to be had.
pub(super) fn too_deep(action: &'static str, path: &Path) -> Error {
    let reason = "it is nested deeper than this process may have directories open (see `ulimit -n`)";
    Error::io(action, path, std::io::Error::other(reason))
}

/// The error for a worker thread that ended without a result. Its panic, which is the reason, ends the operation as well.
pub(super) fn lost_worker() -> Error {
    Error::io("read", "a file of the source", std::io::Error::other("a worker thread was lost"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn two_threads() -> ThreadPool {
        pool(NonZero::new(2).unwrap()).unwrap()
    }

    #[test]
    fn who_may_have_no_helpers_does_everything_at_once_and_in_order() {
        let done = Mutex::new(Vec::new());
        two_threads().in_place_scope(|scope| {
            let helpers = Helpers::new(scope);
            let mut offered = Vec::new();
            for number in 0..5 {
                let done = &done;
                offered.push(Ahead::offer_to(&helpers, move || done.lock().unwrap().push(number)));
                helpers.help(3);
                assert_eq!(done.lock().unwrap().len(), number + 1);
            }
        });
        assert_eq!(done.into_inner().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn no_more_waits_than_may_and_nothing_is_lost() {
        let (begun, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results: Vec<_> = two_threads().in_place_scope(|scope| {
            let mut helpers = Helpers::new(scope);
            helpers.allow(1);
            let mut offered = Vec::new();
            for number in 0..1000 {
                let (begun, most) = (&begun, &most);
                offered.push(Ahead::offer_to(&helpers, move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    number
                }));
                helpers.help(4);
                most.fetch_max(number + 1 - begun.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            offered.into_iter().map(Ahead::finish).collect()
        });
        assert_eq!(results, (0..1000).map(Some).collect::<Vec<_>>());
        // And one that a helper has taken from the queue and not begun yet.
        assert!(most.into_inner() <= 5);
    }

    #[test]
    fn what_is_dropped_before_anybody_began_is_not_done() {
        let done = AtomicUsize::new(0);
        two_threads().in_place_scope(|scope| {
            let mut helpers = Helpers::new(scope);
            drop(Ahead::offer_to(&helpers, || done.fetch_add(1, Ordering::SeqCst)));
            helpers.allow(1);
            assert_eq!(Ahead::offer_to(&helpers, || done.fetch_add(10, Ordering::SeqCst)).finish(), Some(0));
        });
        assert_eq!(done.into_inner(), 10);
    }
}
