//! The hold table against its rules, said once more over a plain list of rows.

#![allow(clippy::unwrap_used)] // In a test, a panic says where it failed.

use proptest::prelude::*;

use sagacore_core::fence::{Ask, HoldError, HoldRow, Holds, Standing};
use sagacore_core::watermark::Watermark;
use sagacore_core::wire::{HoldMode, Holder, SagaId};

const RESOURCES: [&str; 3] = ["a", "b", "pool"];
const SIZE: u32 = 4;

#[derive(Debug, Clone)]
enum Step {
    Take { resource: usize, shared: bool, amount: u32, who: Who, waits: bool },
    Keep(Who),
    Release(Who),
    Free { saga: u64, attempt: u32 },
    Forget { mark: u64, exceptions: Vec<u64> },
}

type Who = (u64, u32, u16);

fn holder((saga, attempt, place): Who) -> Holder {
    Holder { saga: SagaId::new(0, saga, 9), attempt, place }
}

fn who() -> impl Strategy<Value = Who> {
    (1u64..7, 0u32..2, 0u16..2)
}

fn step() -> impl Strategy<Value = Step> {
    let take = (0usize..3, any::<bool>(), 0u32..5, who(), any::<bool>());
    prop_oneof![
        8 => take.prop_map(|(resource, shared, amount, who, waits)| {
            Step::Take { resource, shared, amount, who, waits }
        }),
        5 => who().prop_map(Step::Keep),
        3 => who().prop_map(Step::Release),
        1 => (1u64..7, 0u32..2).prop_map(|(saga, attempt)| Step::Free { saga, attempt }),
        1 => (1u64..8, proptest::collection::vec(1u64..8, 0..2))
            .prop_map(|(mark, exceptions)| Step::Forget { mark, exceptions }),
    ]
}

/// A row, and where it is.
type Row = (usize, HoldRow);

#[derive(Default)]
struct Model {
    rows: Vec<Row>,
}

fn goes_with(a: HoldMode, b: HoldMode) -> bool {
    a == b && a != HoldMode::Exclusive
}

impl Model {
    fn free_before(&mut self, saga: u64, attempt: u32) {
        self.rows.retain(|(_, row)| row.holder.saga.sequence.get() != saga || row.holder.attempt >= attempt);
    }

    /// Whether it is given, or may not be asked for.
    fn is_given(&self, at: usize, ask: &Ask<'_>) -> Result<bool, HoldError> {
        let here: Vec<&HoldRow> = self.rows.iter().filter(|(of, _)| *of == at).map(|(_, row)| row).collect();
        let is_mine = |row: &&&HoldRow| row.holder.saga == ask.holder.saga;
        let is_held = |row: &HoldRow| row.standing != Standing::Waiting;
        let has = |row: &&HoldRow| {
            is_held(row)
                && match (row.mode, ask.mode) {
                    (HoldMode::Exclusive, _) | (HoldMode::Shared, HoldMode::Shared) => true,
                    (HoldMode::Counted, HoldMode::Counted) => row.holder == ask.holder && row.amount >= ask.amount,
                    _ => false,
                }
        };
        if here.iter().filter(is_mine).any(has) {
            return Ok(true);
        }
        let own: u32 = here
            .iter()
            .filter(is_mine)
            .filter(|row| is_held(row) && row.mode == HoldMode::Counted && row.holder != ask.holder)
            .map(|row| row.amount)
            .sum();
        if ask.mode == HoldMode::Counted && (ask.amount == 0 || own + ask.amount > ask.size) {
            return Err(HoldError::Amount);
        }
        let before: Vec<&HoldRow> = here
            .iter()
            .filter(|row| row.holder.saga != ask.holder.saga && (is_held(row) || row.age < ask.age))
            .copied()
            .collect();
        let taken: u32 = before.iter().filter(|row| row.mode == HoldMode::Counted).map(|row| row.amount).sum();
        let fits = ask.mode != HoldMode::Counted || own + taken + ask.amount <= ask.size;
        Ok(fits && before.iter().all(|row| goes_with(row.mode, ask.mode)))
    }

    /// What is granted goes together, whatever was done.
    fn check(&self) {
        for (index, (at, row)) in self.rows.iter().enumerate() {
            for (other_at, other) in &self.rows[index + 1..] {
                let both_held = row.standing != Standing::Waiting && other.standing != Standing::Waiting;
                let of_two = row.holder.saga != other.holder.saga;
                if at == other_at && both_held && of_two {
                    assert!(goes_with(row.mode, other.mode), "{row:?} and {other:?}");
                }
            }
        }
        let held = self.rows.iter().filter(|(_, row)| row.standing != Standing::Waiting);
        let pool: u32 = held.filter(|(_, row)| row.mode == HoldMode::Counted).map(|(_, row)| row.amount).sum();
        assert!(pool <= SIZE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_gives_what_its_rules_say(steps in proptest::collection::vec(step(), 0..120)) {
        let (mut holds, mut model) = (Holds::new(1_000), Model::default());
        for step in steps {
            match step {
                Step::Take { resource, shared, amount, who, waits } => {
                    let mode = match (RESOURCES[resource], shared) {
                        ("pool", _) => HoldMode::Counted,
                        (_, true) => HoldMode::Shared,
                        _ => HoldMode::Exclusive,
                    };
                    let (amount, size) = if mode == HoldMode::Counted { (amount, SIZE) } else { (1, 1) };
                    let (holder, age) = (holder(who), who.0);
                    let ask = Ask { resource: RESOURCES[resource], mode, amount, size, holder, age };
                    model.free_before(who.0, who.1);
                    let given = model.is_given(resource, &ask);
                    let taken = holds.take(&ask, waits);
                    prop_assert_eq!(taken.clone().map(|in_the_way| in_the_way.is_empty()), given);
                    let Ok(is_given) = given else { continue };
                    for named in taken.unwrap() {
                        let row = model.rows.iter().find(|(at, row)| *at == resource && row.holder == named).unwrap().1;
                        prop_assert!(row.standing != Standing::Waiting || row.age < ask.age);
                    }
                    if !is_given && waits {
                        let granted = Standing::Granted;
                        model.rows.retain(|(_, row)| row.holder != ask.holder || row.standing == granted);
                    }
                    if is_given || waits {
                        put(&mut model, resource, &ask, is_given);
                    }
                }
                Step::Keep(who) => {
                    holds.keep(holder(who));
                    model.rows.retain(|(_, row)| row.holder != holder(who) || row.standing != Standing::Waiting);
                    let own = model.rows.iter_mut().filter(|(_, row)| row.holder == holder(who));
                    own.for_each(|(_, row)| row.standing = Standing::Granted);
                }
                Step::Release(who) => {
                    holds.release(holder(who));
                    model.rows.retain(|(_, row)| row.holder != holder(who));
                }
                Step::Free { saga, attempt } => {
                    holds.free(SagaId::new(0, saga, 9), attempt);
                    model.free_before(saga, attempt + 1);
                }
                Step::Forget { mark, exceptions } => {
                    let mut told = Watermark::unknown();
                    told.marks.fill(mark);
                    told.exceptions = exceptions;
                    holds.forget(0, &told);
                    model.rows.retain(|(_, row)| !told.has_passed(0, row.holder.saga.sequence.get()));
                }
            }
            model.check();
            prop_assert_eq!(holds.len(), model.rows.len());
            for (at, name) in RESOURCES.iter().enumerate() {
                let mut rows: Vec<HoldRow> = holds.rows(name).to_vec();
                let mut wanted: Vec<HoldRow> =
                    model.rows.iter().filter(|(of, _)| *of == at).map(|(_, row)| *row).collect();
                for rows in [&mut rows, &mut wanted] {
                    rows.sort_by_key(|row| (row.age, row.holder.attempt, row.holder.place));
                }
                prop_assert_eq!(rows, wanted);
            }
        }
    }
}

fn put(model: &mut Model, at: usize, ask: &Ask<'_>, is_given: bool) {
    let standing = if is_given { Standing::Provisional } else { Standing::Waiting };
    let row = HoldRow { holder: ask.holder, age: ask.age, mode: ask.mode, amount: ask.amount, standing };
    let own = model.rows.iter_mut().find(|(of, own)| *of == at && own.holder == ask.holder);
    match own.map(|(_, own)| own) {
        None => model.rows.push((at, row)),
        Some(own) if own.standing == Standing::Waiting => *own = row,
        Some(own) if is_given => {
            let mode = if own.mode == HoldMode::Exclusive { own.mode } else { ask.mode };
            *own = HoldRow { mode, amount: own.amount.max(ask.amount), ..*own };
        }
        Some(_) => {}
    }
}
