//! What was found out last about objects: most of what a tree refers to, an earlier version of the tree has referred to.

use crate::object::{ID_LEN, ObjectId};

/// So many objects are remembered.
const SLOTS: usize = 1 << 16;

/// Values of the objects that were met last. Two whose names end the same displace each other.
#[derive(Debug)]
pub struct Recent<V>(Vec<Option<(ObjectId, V)>>);

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Copy> Recent<V> {
    /// The value of an object, if it is remembered.
    pub fn get(&self, id: ObjectId) -> Option<V> {
        let (known, value) = self.0.get(slot(id))?.as_ref()?;
        (*known == id).then_some(*value)
    }

    /// Remembers the value of an object.
    pub fn put(&mut self, id: ObjectId, value: V) {
        if self.0.is_empty() {
            self.0.resize_with(SLOTS, || None);
        }
        self.0[slot(id)] = Some((id, value));
    }
}

fn slot(id: ObjectId) -> usize {
    let end = &id.as_bytes()[ID_LEN - 2..];
    usize::from(u16::from_le_bytes([end[0], end[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::HashAlgorithm;

    #[test]
    fn what_is_remembered_is_what_was_put() {
        let ids: Vec<ObjectId> = (0..200_000_u32).map(|n| HashAlgorithm::Blake3.hash(&n.to_le_bytes())).collect();
        let mut recent = Recent::default();
        assert_eq!(recent.get(ids[0]), None);
        for (number, id) in ids.iter().enumerate() {
            recent.put(*id, number);
            assert_eq!(recent.get(*id), Some(number));
        }
        let remembered = ids.iter().enumerate().filter(|(number, id)| match recent.get(**id) {
            Some(found) => found == *number,
            None => false,
        });
        // All slots are in use, each by the last that came.
        assert!((60_000..=SLOTS).contains(&remembered.count()));
    }
}
