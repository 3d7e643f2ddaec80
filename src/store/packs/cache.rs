//! A cache for values that are costly to make.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// Values that are costly to make, kept up to a total weight; the least recently used go first. While a value is made,
/// others who want the same wait for it.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    most: AtomicUsize,
    inner: Mutex<CacheInner<K, V>>,
}

#[derive(Debug)]
struct CacheInner<K, V> {
    slots: HashMap<K, CacheSlot<V>>,
    weight: usize,
    clock: u64,
}

#[derive(Debug)]
struct CacheSlot<V> {
    value: Arc<Mutex<Option<Arc<V>>>>,
    weight: usize,
    used: u64,
}

impl<K: Copy + Eq + std::hash::Hash, V> Cache<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: AtomicUsize::new(most),
            inner: Mutex::new(CacheInner { slots: HashMap::new(), weight: 0, clock: 0 }),
        }
    }

    /// Keeps at least so much.
    pub(super) fn keep_at_least(&self, most: usize) {
        self.most.fetch_max(most, Ordering::Relaxed);
    }

    fn inner(&self) -> MutexGuard<'_, CacheInner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, and those that went for it.
    pub(super) fn get_or_make(
        &self,
        key: K,
        make: impl FnOnce() -> Result<(V, usize)>,
    ) -> Result<(Arc<V>, Vec<Arc<V>>)> {
        let slot = {
            let mut inner = self.inner();
            inner.clock += 1;
            let used = inner.clock;
            let slot = inner.slots.entry(key).or_insert_with(|| CacheSlot { value: Arc::default(), weight: 0, used });
            slot.used = used;
            Arc::clone(&slot.value)
        };
        let mut value = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*value {
            return Ok((Arc::clone(value), Vec::new()));
        }
        match make() {
            Ok((new, weight)) => {
                let new = Arc::new(new);
                *value = Some(Arc::clone(&new));
                drop(value);
                let gone = self.weigh(key, &slot, weight);
                Ok((new, gone))
            }
            Err(error) => {
                // Before another thread that waits for the value makes it: what that one notes would be removed.
                let mut inner = self.inner();
                if inner.slots.get(&key).is_some_and(|kept| Arc::ptr_eq(&kept.value, &slot)) {
                    inner.slots.remove(&key);
                }
                drop(inner);
                drop(value);
                Err(error)
            }
        }
    }

    /// Notes what a new value weighs, and lets others go for it. Returns these.
    fn weigh(&self, key: K, value: &Arc<Mutex<Option<Arc<V>>>>, weight: usize) -> Vec<Arc<V>> {
        let mut gone = Vec::new();
        let mut inner = self.inner();
        // It is not in the cache if another thread failed to make it in between.
        let slot = inner.slots.get_mut(&key).filter(|slot| Arc::ptr_eq(&slot.value, value));
        let Some(slot) = slot else { return gone };
        slot.weight = weight;
        inner.weight += weight;
        while inner.weight > self.most.load(Ordering::Relaxed) {
            let others = inner.slots.iter().filter(|(other, slot)| **other != key && slot.weight > 0);
            let Some(oldest) = others.min_by_key(|(_, slot)| slot.used).map(|(oldest, _)| *oldest) else { break };
            let Some(slot) = inner.slots.remove(&oldest) else { break };
            inner.weight -= slot.weight;
            // Others who have found the slot already keep the value.
            let value = Arc::into_inner(slot.value).and_then(|value| value.into_inner().ok().flatten());
            gone.extend(value);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Barrier, mpsc};
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;

    fn failure() -> Error {
        Error::refused("make a value", "it was made to fail", "nothing")
    }

    fn weight<V>(cache: &Cache<u32, V>) -> (usize, usize) {
        let inner = cache.inner();
        (inner.weight, inner.slots.values().map(|slot| slot.weight).sum())
    }

    proptest! {
        /// The model: what is kept with its weight, the least recently used first.
        #[test]
        fn the_cache_keeps_what_was_used_last(
            most in 0..20_usize,
            uses in proptest::collection::vec((0..10_u32, 1..8_usize, 0..6_u8), 0..80),
        ) {
            let cache = Cache::new(most);
            let mut model: Vec<(u32, usize)> = Vec::new();
            for (key, new_weight, luck) in uses {
                let mut made = false;
                let result = cache.get_or_make(key, || {
                    made = true;
                    if luck == 0 { Err(failure()) } else { Ok((key * 100, new_weight)) }
                });
                let kept = model.iter().position(|(kept, _)| *kept == key);
                prop_assert_eq!(made, kept.is_none());
                let mut expected_gone = Vec::new();
                if let Some(at) = kept {
                    let used = model.remove(at);
                    model.push(used);
                } else if luck > 0 {
                    model.push((key, new_weight));
                    while model.len() > 1 && model.iter().map(|(_, weight)| weight).sum::<usize>() > most {
                        expected_gone.push(model.remove(0).0 * 100);
                    }
                }
                match result {
                    Ok((value, gone)) => {
                        prop_assert_eq!(*value, key * 100);
                        prop_assert_eq!(gone.iter().map(|value| **value).collect::<Vec<_>>(), expected_gone);
                    }
                    Err(_) => prop_assert!(made && luck == 0),
                }
                let sum = model.iter().map(|(_, weight)| weight).sum::<usize>();
                prop_assert_eq!(weight(&cache), (sum, sum));
                let kept: BTreeSet<u32> = cache.inner().slots.keys().copied().collect();
                prop_assert_eq!(kept, model.iter().map(|(key, _)| *key).collect::<BTreeSet<_>>());
            }
        }
    }

    #[test]
    fn a_value_is_made_once_however_many_ask() {
        const THREADS: usize = 8;
        let cache = Cache::new(1000);
        let calls = AtomicUsize::new(0);
        let barrier = Barrier::new(THREADS);
        thread::scope(|scope| {
            for first in 0..THREADS {
                let (cache, calls, barrier) = (&cache, &calls, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for at in 0..50 {
                        let key = u32::try_from((first + at) % 50).unwrap();
                        let make = || {
                            calls.fetch_add(1, Ordering::Relaxed);
                            Ok((key, 1))
                        };
                        assert_eq!(*cache.get_or_make(key, make).unwrap().0, key);
                    }
                });
            }
        });
        assert_eq!((calls.into_inner(), weight(&cache)), (50, (50, 50)));
    }

    /// Of three that want a value, the first fails, the second was waiting for it, and the third comes while the second
    /// makes it (and is done before the second fails too).
    #[test]
    fn after_a_failure_a_value_weighs_what_it_weighs() {
        for second_fails in [false, true] {
            let cache = Cache::new(10);
            let (second_makes, wait_for_second) = mpsc::channel();
            let (go_on, wait_for_third) = mpsc::channel();
            thread::scope(|scope| {
                let cache = &cache;
                let first = scope.spawn(move || {
                    // The cache and both threads hold the slot once the second one waits for it.
                    let fail = || {
                        while Arc::strong_count(&cache.inner().slots[&1].value) < 3 {
                            thread::yield_now();
                        }
                        Err(failure())
                    };
                    assert!(cache.get_or_make(1, fail).is_err());
                });
                while !cache.inner().slots.contains_key(&1) {
                    thread::yield_now();
                }
                let second = scope.spawn(move || {
                    let make = || {
                        second_makes.send(()).unwrap();
                        wait_for_third.recv().unwrap();
                        if second_fails { Err(failure()) } else { Ok(("second", 4)) }
                    };
                    assert_eq!(cache.get_or_make(1, make).is_err(), second_fails);
                });
                first.join().unwrap();
                wait_for_second.recv().unwrap();
                let mut second = Some(second);
                let make = || {
                    if !second_fails {
                        go_on.send(()).unwrap();
                        second.take().unwrap().join().unwrap();
                    }
                    Ok(("third", 4))
                };
                assert_eq!(*cache.get_or_make(1, make).unwrap().0, "third");
                if let Some(second) = second {
                    go_on.send(()).unwrap();
                    second.join().unwrap();
                }
            });
            assert_eq!(weight(&cache), (4, 4));
            let kept = cache.get_or_make(1, || Ok(("another", 4))).unwrap().0;
            assert_eq!(*kept, "third", "the second fails: {second_fails}");
        }
    }
}
