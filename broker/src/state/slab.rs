//! A slot map in pages: what comes and goes together lies together, and a page that holds nothing is given back. Keys
//! are those of `slotmap`: a place and a version, so a key of what is gone finds nothing.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use slotmap::{Key, KeyData};

/// Slots of a page.
const SLOTS: usize = 256;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();
/// Versions are odd: those of `slotmap` are.
const FIRST_VERSION: u32 = 1;
const NEXT_VERSION: u32 = 2;
/// Empty pages that are kept, beside one for each so many that are not.
const PAGES_KEPT: usize = 4;
const PAGES_PER_KEPT: usize = 8;

struct Slot<V> {
    version: u32,
    value: Option<V>,
}

struct Page<V> {
    slots: Box<[Slot<V>]>,
    /// Free slots; the last one is taken next.
    free: Vec<u8>,
}

impl<V> Page<V> {
    fn new(version: u32) -> Self {
        let slots = (0..SLOTS).map(|_| Slot { version, value: None }).collect();
        Self { slots, free: (0..=u8::MAX).rev().collect() }
    }

    /// A version that none of its slots has had.
    fn fresh_version(&self) -> u32 {
        let latest = self.slots.iter().map(|slot| slot.version).max();
        latest.unwrap_or(FIRST_VERSION).wrapping_add(NEXT_VERSION)
    }
}

enum Place<V> {
    Page(Page<V>),
    /// Given back; the slots of the next page here begin with this version.
    Vacant(u32),
}

/// See the module's text.
pub struct Slab<K: Key, V> {
    places: Vec<Place<V>>,
    /// Pages with free slots, and perhaps some that were given back; the last one is taken from.
    open: Vec<u32>,
    vacant: Vec<u32>,
    length: usize,
    keys: PhantomData<fn(K) -> K>,
}

impl<K: Key, V> Default for Slab<K, V> {
    fn default() -> Self {
        Self { places: Vec::new(), open: Vec::new(), vacant: Vec::new(), length: 0, keys: PhantomData }
    }
}

fn split<K: Key>(key: K) -> (usize, usize, u32) {
    let raw = key.data().as_ffi();
    let place = raw as u32;
    ((place >> SLOT_BITS) as usize, place as usize % SLOTS, (raw >> 32) as u32)
}

fn join<K: Key>(page: usize, slot: usize, version: u32) -> K {
    let place = (page << SLOT_BITS | slot) as u64;
    KeyData::from_ffi(u64::from(version) << 32 | place).into()
}

impl<K: Key, V> Slab<K, V> {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn insert(&mut self, value: V) -> K {
        let number = match self.open.last() {
            Some(&number) => number,
            None => self.add_page(),
        };
        let Place::Page(page) = &mut self.places[number as usize] else { unreachable!("an open page is there") };
        let Some(free) = page.free.pop() else { unreachable!("an open page has a free slot") };
        let slot = &mut page.slots[usize::from(free)];
        slot.value = Some(value);
        let key = join(number as usize, usize::from(free), slot.version);
        if page.free.is_empty() {
            self.open.pop();
        }
        self.length += 1;
        key
    }

    #[cold]
    fn add_page(&mut self) -> u32 {
        let number = self.vacant.pop().unwrap_or(self.places.len() as u32);
        match self.places.get_mut(number as usize) {
            Some(place) => {
                if let Place::Vacant(version) = *place {
                    *place = Place::Page(Page::new(version));
                }
            }
            None => self.places.push(Place::Page(Page::new(FIRST_VERSION))),
        }
        self.open.push(number);
        number
    }

    pub fn remove(&mut self, key: K) -> Option<V> {
        let (number, slot, version) = split(key);
        let Place::Page(page) = self.places.get_mut(number)? else { return None };
        let found = &mut page.slots[slot];
        if found.version != version {
            return None;
        }
        let gone = found.value.take()?;
        found.version = version.wrapping_add(NEXT_VERSION);
        if page.free.is_empty() {
            self.open.push(number as u32);
        }
        page.free.push(slot as u8);
        self.length -= 1;
        Some(gone)
    }

    #[inline]
    pub fn get(&self, key: K) -> Option<&V> {
        let (number, slot, version) = split(key);
        match self.places.get(number)? {
            Place::Page(page) if page.slots[slot].version == version => page.slots[slot].value.as_ref(),
            _ => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let (number, slot, version) = split(key);
        match self.places.get_mut(number)? {
            Place::Page(page) if page.slots[slot].version == version => page.slots[slot].value.as_mut(),
            _ => None,
        }
    }

    pub fn contains_key(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let pages = self.places.iter().enumerate().filter_map(|(number, place)| match place {
            Place::Page(page) => Some((number, page)),
            Place::Vacant(_) => None,
        });
        pages.flat_map(|(number, page)| {
            let slots = page.slots.iter().enumerate();
            slots.filter_map(move |(slot, found)| Some((join(number, slot, found.version), found.value.as_ref()?)))
        })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut V)> {
        let pages = self.places.iter_mut().enumerate().filter_map(|(number, place)| match place {
            Place::Page(page) => Some((number, page)),
            Place::Vacant(_) => None,
        });
        pages.flat_map(|(number, page)| {
            let slots = page.slots.iter_mut().enumerate();
            slots.filter_map(move |(slot, found)| Some((join(number, slot, found.version), found.value.as_mut()?)))
        })
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// Pages, with those that were given back: `page` has the keys of each.
    pub fn pages(&self) -> usize {
        self.places.len()
    }

    /// The keys of one page.
    pub fn page(&self, number: usize) -> impl Iterator<Item = K> + '_ {
        let slots = match self.places.get(number) {
            Some(Place::Page(page)) => &page.slots[..],
            _ => &[],
        };
        let taken = slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        taken.map(move |(slot, found)| join(number, slot, found.version))
    }

    /// Gives empty pages back, but for a few.
    pub fn trim(&mut self) {
        let mut kept = PAGES_KEPT + self.length / SLOTS / PAGES_PER_KEPT;
        for (number, place) in self.places.iter_mut().enumerate() {
            let Place::Page(page) = place else { continue };
            if page.free.len() < SLOTS {
                continue;
            }
            if kept > 0 {
                kept -= 1;
                continue;
            }
            *place = Place::Vacant(page.fresh_version());
            self.vacant.push(number as u32);
        }
        let places = &self.places;
        self.open.retain(|&number| matches!(places[number as usize], Place::Page(_)));
    }
}

impl<K: Key, V> Index<K> for Slab<K, V> {
    type Output = V;

    #[inline]
    fn index(&self, key: K) -> &V {
        match self.get(key) {
            Some(found) => found,
            None => panic!("a key of what is gone"),
        }
    }
}

impl<K: Key, V> IndexMut<K> for Slab<K, V> {
    #[inline]
    fn index_mut(&mut self, key: K) -> &mut V {
        match self.get_mut(key) {
            Some(found) => found,
            None => panic!("a key of what is gone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    slotmap::new_key_type! { struct TestKey; }

    proptest! {
        #[test]
        fn it_is_a_map_whose_old_keys_find_nothing(steps in proptest::collection::vec(0u32..1_000, 0..3_000)) {
            let (mut slab, mut model) = (Slab::<TestKey, u32>::default(), BTreeMap::new());
            let mut gone = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                // Phases of growth and of decline, so that pages fill and empty.
                let removes = if number / 700 % 2 == 0 { step < 100 } else { step < 900 };
                let some = model.keys().nth(step as usize % model.len().max(1)).copied();
                match some.filter(|_| removes) {
                    Some(key) => {
                        prop_assert_eq!(slab.remove(key), model.remove(&key));
                        gone.push(key);
                    }
                    None => {
                        let key = slab.insert(step);
                        prop_assert_eq!(model.insert(key, step), None);
                    }
                }
                if step % 97 == 0 {
                    slab.trim();
                }
                prop_assert_eq!(slab.len(), model.len());
            }
            for key in gone {
                prop_assert_eq!(slab.get(key), None);
                prop_assert_eq!(slab.remove(key), None);
            }
            let found: BTreeMap<TestKey, u32> = slab.iter().map(|(key, &value)| (key, value)).collect();
            let by_page: Vec<TestKey> = (0..slab.pages()).flat_map(|page| slab.page(page)).collect();
            prop_assert_eq!(by_page.len(), model.len());
            prop_assert_eq!(found, model);
            prop_assert_eq!(slab.get(TestKey::null()), None);
        }
    }

    #[test]
    fn what_is_emptied_is_given_back_and_its_keys_stay_dead() {
        let mut slab = Slab::<TestKey, usize>::default();
        let keys: Vec<TestKey> = (0..100 * SLOTS).map(|value| slab.insert(value)).collect();
        for &key in &keys {
            slab.remove(key);
        }
        slab.trim();
        let is_page = |place: &&Place<usize>| matches!(place, Place::Page(_));
        assert_eq!(slab.places.iter().filter(is_page).count(), PAGES_KEPT);
        let again: Vec<TestKey> = (0..100 * SLOTS).map(|value| slab.insert(value)).collect();
        assert!(keys.iter().all(|&key| slab.get(key).is_none()));
        assert_eq!(again.iter().map(|&key| slab[key]).collect::<Vec<_>>(), (0..100 * SLOTS).collect::<Vec<_>>());
    }
}
